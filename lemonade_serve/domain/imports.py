"""Making a checkpoint out of a file, and giving it its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lemonade_serve.domain.checkpoint import check_name
from lemonade_serve.domain.ports import CheckpointShelf, JobRunner
from lemonade_serve.protocol.jobs import ImportGguf


async def import_gguf(
    source: Path,
    name: str | None,
    dtype: str,
    *,
    jobs: JobRunner,
    shelf: CheckpointShelf,
    progress: Callable[[str, float], None],
) -> Path:
    """Import a GGUF file as `name`, or as the importer suggests; returns the new checkpoint's
    directory. Raises InvalidRequest, UnsupportedModel or JobFailed, and leaves nothing then.
    """
    if name is not None:
        check_name(name)
    with shelf.staging() as staged:
        done = await jobs.run(ImportGguf(str(source), str(staged), dtype), progress)
        return shelf.publish(staged, name or done.name, done.dtype)
