"""What there is to serve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lemonade_serve.errors import DeviceUnavailable, InvalidRequest

DTYPES = ("int4", "int8", "fp16", "bf16", "fp32")
"""In the order in which `auto` prefers them."""
AUTO = "auto"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on disk. `dtype` is what its matrices really are; `bytes` its size there,
    `memory_bytes` what a worker that serves it is expected to take, and `kv_bytes_per_token` what
    each token in its KV cache takes besides."""

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

    def kv_tokens(self, *, at_most: int, sequences: int) -> int:
        """How large a KV cache is of use: so many sequences fill no more than their contexts."""
        return min(at_most, sequences * self.context_length)


def check_name(name: str) -> str:
    """The name, if it can be one: letters, digits, `.`, `_`, `-`, and one `/` as on the hub."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot name a model: letters, digits, '.', '_', '-' and at most one '/'",
            param="model",
        )
    return name


def choose_dtype(requested: str, found: Sequence[CheckpointInfo]) -> CheckpointInfo:
    """The checkpoint of one model that a request means; `found` is not empty.

    Raises DeviceUnavailable, listing what exists, when the dtype asked for does not.
    """
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
