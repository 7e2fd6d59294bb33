"""What there is, what is loaded, how it went. Looking changes nothing."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromQuery

from lemonade_serve import __version__, errors
from lemonade_serve.api.access import exchange_of
from lemonade_serve.api.body import Body
from lemonade_serve.api.deps import Finder, LastRequest, Resident
from lemonade_serve.api.schema.told import BODY, told
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.residency.slot import SlotState, SlotView

_BODY = Body(schemas.ModelsBody, {"the server's own": {}}, optional=True)


@get("/health", operation_id="health", opt=told(), sync_to_thread=False)
def health(request: Request[Any, Any, Any], residents: Resident) -> schemas.Health:
    """What is resident, the most recently used model first."""
    slots, rooms = residents.slots(), residents.device_views()
    resident = [slot.model for slot in slots if slot.state is SlotState.RESIDENT]
    since = time.time() - exchange_of(request.scope).arrived
    return schemas.Health(
        model_loaded=resident[0] if resident else None,
        all_models_loaded=[_loaded(slot, since) for slot in slots],
        devices=[schemas.DeviceRoom(**msgspec.structs.asdict(room)) for room in rooms],
        unusable_devices=[
            schemas.UnusableDevice(device=device.value, **msgspec.structs.asdict(why))
            for device, why in residents.unusable_devices().items()
        ],
        max_models={room.device: room.max_models for room in rooms},
        version=__version__,
    )


@get("/stats", operation_id="stats", opt=told(), sync_to_thread=False)
def stats(
    last_request: LastRequest, model: FromQuery[schemas.ModelName | None] = None
) -> schemas.Stats:
    """How the request went that finished last, of one model or of all."""
    if (last := last_request(model)) is None:
        return schemas.Stats()
    return schemas.Stats(
        time_to_first_token=last.time_to_first_token,
        tokens_per_second=last.tokens_per_second,
        input_tokens=last.prompt_tokens,
        output_tokens=last.completion_tokens,
        decode_token_times=last.token_gaps,
        model=last.answered_by,
        device=last.device,
    )


@get(
    "/models",
    operation_id="list_checkpoints",
    opt=told(BODY, body=_BODY),
)
async def list_checkpoints(
    request: Request[Any, Any, Any],
    locator: Finder,
    cache_dir: FromQuery[schemas.CacheDir | None] = None,
) -> schemas.Checkpoints:
    """The checkpoints on disk; `cache_dir` may come in the query or in a JSON body."""
    said = await _BODY.read(request)
    if said.cache_dir is not None and cache_dir not in (None, said.cache_dir):
        raise errors.InvalidRequest("cache_dir is said twice, and differs", param="cache_dir")
    return await _list(cache_dir if said.cache_dir is None else said.cache_dir, locator)


@post(
    "/models",
    status_code=200,
    operation_id="list_checkpoints_by_body",
    opt=told(BODY, body=_BODY),
)
async def list_checkpoints_by_body(
    request: Request[Any, Any, Any], locator: Finder
) -> schemas.Checkpoints:
    """As GET, for those whose GET cannot have a body."""
    return await _list((await _BODY.read(request)).cache_dir, locator)


def _loaded(slot: SlotView, since: float) -> schemas.LoadedModel:
    """`since`: when the service's clock was 0, in Unix seconds."""
    return schemas.LoadedModel(
        model_name=slot.model,
        checkpoint=str(slot.path),
        device=slot.device,
        dtype=slot.dtype,
        state=slot.state,
        engine=slot.engine,
        engine_reason=slot.engine_reason,
        pinned=slot.pinned,
        is_busy=bool(slot.running or slot.waiting),
        is_streaming=slot.streaming,
        requests_running=slot.running,
        requests_waiting=slot.waiting,
        memory_bytes=slot.memory_bytes,
        last_use=round(since + slot.last_use, 3),
        pid=slot.pid,
    )


async def _list(cache_dir: str | None, locator: Locator) -> schemas.Checkpoints:
    infos = await locator.checkpoints(cache_dir)
    return schemas.Checkpoints(
        data=[
            schemas.Checkpoint(
                checkpoint=info.name, device=locator.usual_device(info), dtype=info.dtype
            )
            for info in infos
        ]
    )
