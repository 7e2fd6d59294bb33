"""The Lemonade specification, as docs/api.md settles it."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.params import FromQuery, JSONBody
from litestar.response import Stream

from lemonade_serve import __version__, errors
from lemonade_serve.api import answer
from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.deps import Bounds, Service
from lemonade_serve.api.errors import Shown
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.checkpoint import AUTO
from lemonade_serve.domain.completion import (
    CompletionRequest,
    CompletionService,
    Generation,
    TextPrompt,
)
from lemonade_serve.domain.device import HYBRID


class SpecWriter:
    """`data: {"text": …}`, a last event with finish_reason and usage, `data: [DONE]`."""

    def text(self, generation: Generation, text: str) -> bytes:
        return answer.event({"text": text})

    def end(self, generation: Generation) -> bytes:
        return answer.event(_completion(generation, "")) + answer.DONE

    def error(self, shown: Shown) -> bytes:
        return answer.event(shown.spec_body())


@post("/completions", status_code=200, operation_id="complete")
async def complete(
    request: Request[Any, Any, Any],
    data: JSONBody[schemas.CompletionBody],
    service: Service,
    bounds: Bounds,
) -> Response[schemas.Completion] | Stream:
    """Continue a prompt, with the model that is named or the one used last."""
    wanted = CompletionRequest(
        prompt=TextPrompt(data.prompt),
        options=data,
        placement=data.placement(),
        arrived=exchange_of(request.scope).arrived,
        streaming=data.stream,
    )
    generation = await answer.begin(request, service, wanted)
    if data.stream:
        return await answer.stream(request, generation, SpecWriter(), bounds)
    return Response(_completion(generation, await answer.whole(request, generation)))


@post("/load", status_code=200, operation_id="load")
async def load(data: JSONBody[schemas.LoadBody], service: Service) -> schemas.Status:
    """Make a model resident before it is needed."""
    return await _load(data, service)


@get("/load", operation_id="load_by_query")
async def load_by_query(
    request: Request[Any, Any, Any],
    service: Service,
    model: FromQuery[str],
    device: FromQuery[str] = HYBRID,
    dtype: FromQuery[str] = AUTO,
    cache_dir: FromQuery[str | None] = None,
) -> schemas.Status:
    """As POST, with query parameters."""
    _check_query(request, schemas.LoadBody)
    body = schemas.LoadBody(model=model, device=device, dtype=dtype, cache_dir=cache_dir)
    return await _load(body, service)


@post("/unload", status_code=200, operation_id="unload")
async def unload(
    service: Service, data: JSONBody[schemas.UnloadBody | None] = None
) -> schemas.Status:
    """Unload what is named, or everything; running requests finish first unless `force`."""
    return await _unload(data or schemas.UnloadBody(), service)


@get("/unload", operation_id="unload_by_query")
async def unload_by_query(
    request: Request[Any, Any, Any],
    service: Service,
    model: FromQuery[str | None] = None,
    device: FromQuery[str | None] = None,
    force: FromQuery[bool] = False,
) -> schemas.Status:
    """As POST, with query parameters."""
    _check_query(request, schemas.UnloadBody)
    return await _unload(schemas.UnloadBody(model=model, device=device, force=force), service)


@get("/health", operation_id="health", sync_to_thread=False)
def health(service: Service) -> schemas.Health:
    """What is resident, the most recently used model first. Looking changes nothing."""
    loaded = _loaded(service)
    return schemas.Health(
        status="ok",
        model_loaded=loaded[0].model_name if loaded else None,
        all_models_loaded=loaded,
        devices=[device.value for device in service.devices],
        version=__version__,
    )


def _completion(generation: Generation, text: str) -> schemas.Completion:
    return schemas.Completion(
        text=text,
        model=generation.model,
        finish_reason=generation.reason,
        usage=schemas.Usage(
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=generation.completion_tokens,
            total_tokens=generation.total_tokens,
        ),
    )


async def _load(wanted: schemas.LoadBody, service: CompletionService) -> schemas.Status:
    info = await service.load(wanted)
    return schemas.Status(
        status="success", message=f"Model loaded successfully: {info.name} in {info.dtype}"
    )


async def _unload(wanted: schemas.UnloadBody, service: CompletionService) -> schemas.Status:
    count = await service.unload(model=wanted.model, device=wanted.device, force=wanted.force)
    message = "Model unloaded successfully" if count else "No such model was loaded"
    return schemas.Status(status="success", message=message)


def _check_query(request: Request[Any, Any, Any], body: type[msgspec.Struct]) -> None:
    """The GET takes what the POST takes, and nothing else."""
    for name in request.query_params:
        if name not in body.__struct_fields__:
            raise errors.InvalidRequest(f"there is no parameter {name!r} here", param=name)


def _loaded(service: CompletionService) -> list[schemas.LoadedModel]:
    now, clock = time.time(), service.clock()
    return [
        schemas.LoadedModel(
            model_name=slot.info.name,
            checkpoint=str(slot.info.path),
            device=slot.device.value,
            dtype=slot.info.dtype,
            state=slot.state.value,
            engine=slot.worker.ready.engine if slot.worker else None,
            is_busy=bool(slot.leases),
            is_streaming=any(lease.streaming for lease in slot.leases),
            requests_running=sum(lease.running for lease in slot.leases),
            requests_waiting=sum(not lease.running for lease in slot.leases),
            memory_bytes=slot.worker.memory_bytes if slot.worker else None,
            last_use=round(now - (clock - slot.last_use), 3),
            pid=slot.worker.pid if slot.worker else None,
        )
        for slot in service.resident()
    ]


router = Router(
    "/api/v0",
    route_handlers=[complete, load, load_by_query, unload, unload_by_query, health],
    tags=["Lemonade"],
)
