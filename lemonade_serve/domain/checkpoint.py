"""What there is to serve."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lemonade_serve.errors import AdapterNotFound, DeviceUnavailable, InvalidRequest, WrongTask
from lemonade_serve.protocol.messages import Adapter, Encoder

DTYPES = ("int4", "int8", "fp16", "bf16", "fp32")
"""In the order in which `auto` prefers them."""
AUTO = "auto"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?(@[A-Za-z0-9._-]+)?")


class Task(enum.Enum):
    """What a checkpoint is made for."""

    GENERATION = "generation"
    EMBEDDING = "embedding"
    RERANK = "rerank"


_USES = {
    Task.GENERATION: "generates text: ask it on a completions, chat or responses route",
    Task.EMBEDDING: "is an embedding model: ask it on /v1/embeddings",
    Task.RERANK: "is a reranker: ask it on /v1/rerank",
}


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on disk. `dtype` is what its matrices really are; `bytes` its size there,
    `memory_bytes` what a worker that serves it is expected to take, and `kv_bytes_per_token` what
    each token in its KV cache takes besides. One with an `encoder` does not generate."""

    name: str
    path: Path
    dtype: str
    architecture: str
    context_length: int
    bytes: int
    memory_bytes: int
    kv_bytes_per_token: int
    modified_s: int
    """Unix time of its last change."""
    capabilities: tuple[str, ...] = ("completion",)
    """What it can be asked for: `completion`, `chat`, `tools`, `embedding`, `rerank`; and
    `adapters`, where there are some."""
    commit: str | None = None
    """Which one of its repository it was pulled at."""
    encoder: Encoder | None = None
    adapters: tuple[Adapter, ...] = ()
    """Each makes another model of it: by name."""

    @property
    def task(self) -> Task:
        return Task.GENERATION if self.encoder is None else Task(self.encoder.task)

    def check_task(self, task: Task) -> None:
        """Raises WrongTask, saying what it is for, unless it is made for this."""
        if self.task is not task:
            raise WrongTask(f"{self.name} {_USES[self.task]}", param="model")

    def adapter(self, name: str) -> Adapter:
        """Raises AdapterNotFound, saying which there are."""
        for adapter in self.adapters:
            if adapter.name == name:
                return adapter
        there = ", ".join(adapter.name for adapter in self.adapters)
        raise AdapterNotFound(
            f"{self.name} has no adapter {name!r}; "
            + (f"it has: {there}" if there else "it has none"),
            param="model",
        )

    def kv_tokens(self, *, at_most: int, sequences: int) -> int:
        """How large a KV cache is of use: so many sequences fill no more than their contexts, and
        what encodes has none."""
        return 0 if self.encoder else min(at_most, sequences * self.context_length)


def check_name(name: str) -> str:
    """The name, if it can be one: letters, digits, `.`, `_`, `-`, and one `/` as on the hub; then
    perhaps `@` and a revision."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot name a model: letters, digits, '.', '_', '-' and at most one '/', "
            "then perhaps '@' and a revision",
            param="model",
        )
    return name


def choose(
    requested: str, found: Sequence[CheckpointInfo], adapter: str | None = None
) -> CheckpointInfo:
    """The checkpoint of one model that a request means, which has the adapter that it means;
    `found` is not empty.

    Raises DeviceUnavailable, listing what exists, when the dtype asked for does not, and
    AdapterNotFound.
    """
    if adapter is None:
        return choose_dtype(requested, found)
    able = [info for info in found if any(one.name == adapter for one in info.adapters)]
    chosen = choose_dtype(requested, able if able and requested == AUTO else found)
    chosen.adapter(adapter)
    return chosen


def choose_dtype(requested: str, found: Sequence[CheckpointInfo]) -> CheckpointInfo:
    """As `choose`, whichever adapters there are."""
    by_dtype = {info.dtype: info for info in found}
    if requested == AUTO:
        return next((by_dtype[d] for d in DTYPES if d in by_dtype), found[0])
    if requested not in by_dtype:
        raise DeviceUnavailable(
            f"{found[0].name} has no checkpoint in dtype {requested!r}; it has: "
            f"{', '.join(sorted(by_dtype))}",
            param="dtype",
        )
    return by_dtype[requested]
