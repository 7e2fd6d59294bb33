"""Making a checkpoint out of a file, and giving it its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from lemonade_serve.domain.checkpoint import check_name
from lemonade_serve.domain.ports import CheckpointShelf, JobRunner
from lemonade_serve.protocol.messages import ImportGguf

_QUANTISATION = re.compile(r"[.-](i?q\d\w*|b?f16|f32|fp16|fp32|bf16)$", re.IGNORECASE)


def default_name(source: Path) -> str:
    """What a GGUF file is called without its quantisation: `SmolLM2-135M-Instruct.Q4_1.gguf`
    makes `SmolLM2-135M-Instruct`. Raises InvalidRequest where that is no name."""
    return check_name(_QUANTISATION.sub("", source.name.removesuffix(".gguf")))


async def import_gguf(
    source: Path,
    name: str,
    dtype: str,
    *,
    jobs: JobRunner,
    shelf: CheckpointShelf,
    progress: Callable[[str, float], None],
) -> Path:
    """Import a GGUF file as `name`; returns the new checkpoint's directory.

    Raises InvalidRequest, UnsupportedModel or JobFailed; nothing is left behind then.
    """
    with shelf.staging(name) as staged:
        done = await jobs.run(ImportGguf(str(source), str(staged), dtype), progress)
        return shelf.publish(staged, name, done.dtype)
