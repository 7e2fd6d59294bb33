"""What the schema says of a key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from msgspec.inspect import (
    DictType,
    Metadata,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from lemonade_serve.settings.schema import Settings

Path = tuple[str, ...]
"""A key's names, from the outermost section to the key itself."""

_ROOT = type_info(Settings)
_ALMOST = 0.75
"""How alike a key and one from elsewhere must be to be its likely meaning."""


def members(kind: Type | None) -> Mapping[str, Type]:
    """The fields of a section; nothing for all else."""
    if isinstance(kind, StructType):
        return {field.encode_name: field.type for field in kind.fields}
    return {}


def kind_at(path: Sequence[str]) -> Type | None:
    """The type of a key or section; None when there is no such thing. A key that takes names of
    the operator's own, such as `api_keys`, has a value at every name."""
    kind: Type | None = _ROOT
    for name in path:
        kind = kind.value_type if isinstance(kind, DictType) else members(kind).get(name)
    return kind


def is_list(kind: Type | None) -> bool:
    return isinstance(kind, VarTupleType)


def takes_names(kind: Type | None) -> bool:
    return isinstance(kind, DictType)


def secrecy(kind: Type | None) -> str | None:
    """What must not be shown of a value: `all`, its `password`, or nothing."""
    if isinstance(kind, UnionType):
        return next(filter(None, map(secrecy, kind.types)), None)
    return (kind.extra or {}).get("secret") if isinstance(kind, Metadata) else None


def meant(path: Path) -> Path | None:
    """The key that somebody meant by one that there is not: one that is only divided otherwise,
    or the nearest in its own section, or one of another section."""
    *section, wrong = path
    everywhere = list(reversed(list(_keys(_ROOT, ()))))  # the first of several is found
    joined = {"_".join(key): key for key in everywhere}
    if key := joined.get("_".join(path)):
        return key
    if close := difflib.get_close_matches(wrong, members(kind_at(section)), n=1):
        return (*section, close[0])
    last = {key[-1]: key for key in everywhere}
    for said, keys in (("_".join(path), joined), (wrong, last)):
        if close := difflib.get_close_matches(said, keys, n=1, cutoff=_ALMOST):
            return keys[close[0]]
    return None


def _keys(kind: Type, path: Path) -> Iterator[Path]:
    for name, member in members(kind).items():
        if isinstance(member, StructType):
            yield from _keys(member, (*path, name))
        else:
            yield (*path, name)
