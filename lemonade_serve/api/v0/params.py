"""The generation parameters that a client keeps."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get, post
from litestar.params import FromQuery

from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.body import Body
from lemonade_serve.api.deps import Finder, Params
from lemonade_serve.api.schema.told import BODY, MODEL, STORE, told
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.clients import KEPT
from lemonade_serve.domain.placement import Locator, Placement

_BODY = Body(
    schemas.ParamsBody,
    {
        "specification": {"temperature": 0.8, "top_p": 0.95, "max_length": 1000},
        "back to the default": {"temperature": None},
    },
)


@post(
    "/params",
    status_code=200,
    operation_id="set_params",
    opt=told(MODEL | BODY | STORE, body=_BODY),
)
async def set_params(
    request: Request[Any, Any, Any],
    locator: Finder,
    params: Params,
) -> schemas.ParamsSet:
    """Keep parameters for whoever asks, over restarts. What is left out stays as it is; nothing is
    kept when a field is wrong."""
    data = await _BODY.read(request)
    said = {name: getattr(data, name) for name in KEPT}
    changes = {name: value for name, value in said.items() if value is not msgspec.UNSET}
    model = await _scope(data.model, locator)
    resolved = await params.set(exchange_of(request.scope).client, model, changes)
    return schemas.ParamsSet(
        message="Generation parameters set successfully",
        params=schemas.AllParams(**{name: getattr(resolved, name) for name in KEPT}),
    )


@get("/params", operation_id="show_params", opt=told(MODEL))
async def show_params(
    request: Request[Any, Any, Any],
    locator: Finder,
    params: Params,
    model: FromQuery[schemas.ModelName | None] = None,
) -> schemas.ParamsShown:
    """The parameters in force for whoever asks, and where each came from."""
    scope = await _scope(model, locator)
    shown = await params.show(exchange_of(request.scope).client, scope)
    return schemas.ParamsShown(
        model=model,
        params=msgspec.convert(
            {name: setting.value for name, setting in shown.items()}, schemas.AllParams
        ),
        sources=schemas.Origins(**{name: setting.source for name, setting in shown.items()}),
    )


@delete("/params", status_code=200, operation_id="forget_params", opt=told())
async def forget_params(
    request: Request[Any, Any, Any],
    params: Params,
    model: FromQuery[schemas.ModelName | None] = None,
) -> schemas.Success:
    """Forget what is kept for one model, or all that is kept for whoever asks."""
    await params.forget(exchange_of(request.scope).client, model)
    return schemas.Success(message="Generation parameters forgotten")


async def _scope(model: str | None, locator: Locator) -> str:
    """Raises ModelNotFound: nothing is kept for models that are not there."""
    if model is None:
        return ""
    await locator.locate(Placement(model=model))
    return model
