"""What is on disk, by a caller's word: removal, and names that stand for others."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get, post
from litestar.params import FromQuery

from lemonade_serve.api.body import Body
from lemonade_serve.api.deps import Names, OnDisk
from lemonade_serve.api.schema.told import BODY, MODEL, REMOVAL, told
from lemonade_serve.api.v0 import schemas
from lemonade_serve.domain.checkpoint import AUTO

_ALIAS = Body(
    schemas.AliasBody, {"a stable name": {"alias": "chat", "model": "SmolLM2-135M-Instruct"}}
)


@delete("/models", status_code=200, operation_id="remove_checkpoint", opt=told(REMOVAL))
async def remove_checkpoint(
    catalogue: OnDisk,
    model: FromQuery[schemas.ModelName],
    dtype: FromQuery[schemas.DtypeName] = AUTO,
    force: FromQuery[bool] = False,
) -> schemas.Success:
    """Take a checkpoint off the disk, and its pin with it. One in memory is refused, or unloaded
    with `force`."""
    gone = await catalogue.remove(model, dtype=dtype, force=force)
    freed = f"{gone.bytes / 1e6:.1f} MB"
    return schemas.Success(
        message=f"Model removed successfully: {gone.name} in {gone.dtype}, {freed}"
    )


@get("/aliases", operation_id="list_aliases", opt=told(), sync_to_thread=False)
def list_aliases(aliases: Names) -> schemas.AliasList:
    """Names that stand for others."""
    entries = sorted(aliases.names.items())
    return schemas.AliasList(
        data=[schemas.AliasEntry(alias=alias, model=model) for alias, model in entries]
    )


@post("/aliases", status_code=200, operation_id="set_alias", opt=told(BODY, body=_ALIAS))
async def set_alias(request: Request[Any, Any, Any], aliases: Names) -> schemas.Success:
    """Let a name stand for a model, over restarts. The model need not be here yet."""
    data = await _ALIAS.read(request)
    await aliases.set(data.alias, data.model)
    return schemas.Success(message=f"{data.alias} stands for {data.model}")


@delete("/aliases", status_code=200, operation_id="remove_alias", opt=told(MODEL))
async def remove_alias(aliases: Names, alias: FromQuery[schemas.ModelName]) -> schemas.Success:
    """Let it stand for nothing. The model stays."""
    await aliases.remove(alias)
    return schemas.Success(message=f"{alias} stands for nothing any more")
