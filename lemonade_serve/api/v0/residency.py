"""Which models are in memory, by a caller's word."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, post
from litestar.params import FromQuery

from lemonade_serve.api.body import Body
from lemonade_serve.api.connection import while_connected
from lemonade_serve.api.deps import Resident
from lemonade_serve.api.keep_alive import Words, seconds
from lemonade_serve.api.schema.told import BODY, LOAD, told
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.checkpoint import AUTO
from lemonade_serve.domain.device import HYBRID
from lemonade_serve.domain.placement import Placement
from lemonade_serve.domain.residents import Residents

_MODEL = "SmolLM2-135M-Instruct"
_LOAD = Body(
    schemas.LoadBody,
    {
        "by name": {"model": _MODEL},
        "exactly": {"model": _MODEL, "device": "cpu", "dtype": "int8", "keep_alive": "1h"},
    },
)
_UNLOAD = Body(
    schemas.UnloadBody,
    {
        "everything": {},
        "one model": {"model": _MODEL},
        "at once": {"model": _MODEL, "device": "cpu", "force": True},
    },
    optional=True,
)
_PIN = Body(schemas.PinBody, {"by name": {"model": _MODEL}})
_UNPIN = Body(schemas.UnpinBody, {"everything": {}, "one model": {"model": _MODEL}}, optional=True)


@post(
    "/load",
    status_code=200,
    operation_id="load",
    opt=told(LOAD | BODY, body=_LOAD),
)
async def load(request: Request[Any, Any, Any], residents: Resident) -> schemas.Success:
    """Make a model resident before it is needed."""
    return await _load(request, await _LOAD.read(request), residents)


@get("/load", operation_id="load_by_query", opt=told(LOAD))
async def load_by_query(  # noqa: PLR0913, PLR0917, what a query may say
    request: Request[Any, Any, Any],
    residents: Resident,
    model: FromQuery[schemas.ModelName],
    device: FromQuery[schemas.DeviceName] = HYBRID,
    dtype: FromQuery[schemas.DtypeName] = AUTO,
    cache_dir: FromQuery[schemas.CacheDir | None] = None,
    keep_alive: FromQuery[Words | None] = None,
) -> schemas.Success:
    """As POST, with query parameters."""
    body = schemas.LoadBody(
        model=model, device=device, dtype=dtype, cache_dir=cache_dir, keep_alive=keep_alive
    )
    return await _load(request, body, residents)


@post(
    "/unload",
    status_code=200,
    operation_id="unload",
    opt=told(BODY, body=_UNLOAD),
)
async def unload(request: Request[Any, Any, Any], residents: Resident) -> schemas.Success:
    """Unload what is named, or everything; running requests finish first unless `force`."""
    return await _unload(await _UNLOAD.read(request), residents)


@get("/unload", operation_id="unload_by_query", opt=told())
async def unload_by_query(
    residents: Resident,
    model: FromQuery[schemas.ModelName | None] = None,
    device: FromQuery[schemas.DeviceName | None] = None,
    force: FromQuery[bool] = False,
) -> schemas.Success:
    """As POST, with query parameters."""
    return await _unload(schemas.UnloadBody(model=model, device=device, force=force), residents)


@post("/pin", status_code=200, operation_id="pin", opt=told(LOAD | BODY, body=_PIN))
async def pin(request: Request[Any, Any, Any], residents: Resident) -> schemas.Success:
    """Make a model resident and let nothing evict it, over restarts, until it is unpinned."""
    data = await _PIN.read(request)
    placement = Placement(model=data.model, device=data.device, dtype=data.dtype)
    slot = await while_connected(request, residents.pin(placement))
    return schemas.Success(
        message=f"Model pinned successfully: {slot.model} in {slot.dtype} on {slot.device}"
    )


@post("/unpin", status_code=200, operation_id="unpin", opt=told(BODY, body=_UNPIN))
async def unpin(request: Request[Any, Any, Any], residents: Resident) -> schemas.Success:
    """Unpin what is named, or everything. It stays resident until its room is needed."""
    wanted = await _UNPIN.read(request)
    count = await residents.unpin(model=wanted.model, device=wanted.device)
    return schemas.Success(
        message="Model unpinned successfully" if count else "No such model was pinned"
    )


async def _load(
    request: Request[Any, Any, Any], wanted: schemas.LoadBody, residents: Residents
) -> schemas.Success:
    placement = Placement(
        model=wanted.model,
        device=wanted.device,
        dtype=wanted.dtype,
        cache_dir=wanted.cache_dir,
        keep_alive=seconds(wanted.keep_alive),
    )
    slot = await while_connected(request, residents.load(placement))
    return schemas.Success(
        message=f"Model loaded successfully: {slot.model} in {slot.dtype} on {slot.device}"
    )


async def _unload(wanted: schemas.UnloadBody, residents: Residents) -> schemas.Success:
    count = await residents.unload(model=wanted.model, device=wanted.device, force=wanted.force)
    return schemas.Success(
        message="Model unloaded successfully" if count else "No such model was loaded"
    )
