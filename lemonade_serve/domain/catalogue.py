"""Taking models off the disk while others are served."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import AUTO, CheckpointInfo
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.ports import CheckpointShelf
from lemonade_serve.domain.residents import Residents


class Catalogue:
    """What is on disk, beside what is in memory."""

    def __init__(self, locator: Locator, residents: Residents, shelf: CheckpointShelf) -> None:
        self._locator = locator
        self._residents = residents
        self._shelf = shelf

    async def remove(self, model: str, *, dtype: str = AUTO, force: bool = False) -> CheckpointInfo:
        """Take a checkpoint off the disk, and its pin with it. One in memory is refused, or
        unloaded with `force`, its running requests cut.

        Raises ModelNotFound, InUse, InvalidRequest where it is not clear which, NotAllowed,
        JobFailed.
        """
        info = the_one(model, dtype, await self._locator.checkpoints())
        slots = [slot for slot in self._residents.slots() if slot.path == info.path]
        if slots and not force:
            raise errors.InUse(
                f"{info.name} is in memory on {slots[0].device}: unload it first "
                f"(`lemonade-serve unload {info.name}`), or say force"
            )
        await self._residents.unpin(model=info.name, dtype=info.dtype)
        for slot in slots:
            await self._residents.unload(model=info.name, device=slot.device, force=True)
        await asyncio.to_thread(self._shelf.remove, info)
        await self._locator.checkpoints()
        return info


def the_one(model: str, dtype: str, infos: Sequence[CheckpointInfo]) -> CheckpointInfo:
    """The checkpoint of that name; nothing is removed because it happened to be preferred. Raises
    ModelNotFound, and InvalidRequest where a dtype has to be said."""
    found = [info for info in infos if info.name == model and dtype in (AUTO, info.dtype)]
    if not found:
        raise errors.ModelNotFound(
            f"there is no model {model!r}{'' if dtype == AUTO else f' in {dtype}'} to remove: "
            "`lemonade-serve list` shows what there is",
            param="model",
        )
    if len(found) > 1:
        dtypes = ", ".join(info.dtype for info in found)
        raise errors.InvalidRequest(f"say which dtype of {model}: {dtypes}", param="dtype")
    return found[0]
