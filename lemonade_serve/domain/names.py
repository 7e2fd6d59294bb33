"""What requests call a model."""

from __future__ import annotations

import re
from typing import NamedTuple

from lemonade_serve.domain.checkpoint import AUTO, DTYPES
from lemonade_serve.domain.device import HYBRID, Device
from lemonade_serve.errors import InvalidRequest

_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = frozenset({*DTYPES, AUTO, HYBRID, *(device.value for device in Device)})
"""Words that mean something else behind a model's name, or may come to."""


class ModelName(NamedTuple):
    """A name, perhaps with `@REVISION`; a dtype, or `auto`; an adapter, if one is meant."""

    model: str
    dtype: str = AUTO
    adapter: str | None = None


def parse(said: str) -> ModelName:
    """`NAME`, `NAME:DTYPE`, `NAME:ADAPTER` or `NAME:DTYPE:ADAPTER`; whether `NAME` can be one is
    for others to say. Raises InvalidRequest for anything else."""
    model, *rest = said.split(":")
    dtype = rest.pop(0) if rest and rest[0] in DTYPES else AUTO
    if not rest:
        return ModelName(model, dtype)
    if len(rest) > 1 or not _ADAPTER.fullmatch(rest[0]):
        raise InvalidRequest(
            f"{said!r} names no model: behind a name may stand ':' and a dtype "
            f"({', '.join(DTYPES)}), then ':' and the name of an adapter",
            param="model",
        )
    return ModelName(model, dtype, rest[0])


def joined(model: str, adapter: str | None) -> str:
    """What a model is called that is one with an adapter."""
    return model if adapter is None else f"{model}:{adapter}"


def can_name_adapter(name: str) -> bool:
    """Whether it can be told from all else that stands behind a model's name."""
    return name not in _RESERVED and _ADAPTER.fullmatch(name) is not None
