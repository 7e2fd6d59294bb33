"""What a running daemon does of settings that are not the ones it was started with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from lemonade_serve.settings import fields
from lemonade_serve.settings.schema import Settings

_AT_RUN_TIME = (
    ("api_keys",),
    ("api_keys_file",),
    ("default_model",),
    ("parameters",),
    ("devices", "*", "max_models"),
    ("devices", "*", "memory_budget"),
    ("pool",),
    ("worker", "max_queue"),
    ("worker", "max_client_queue"),
    ("worker", "client_weights"),
    ("log",),
)
"""Keys and sections that need no restart; `*` is any name."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """`in_force` are the running settings with what can change of the others; `applied` and
    `restart` name the keys that differ, dotted, in the schema's order: those that are in force
    then, and those that wait for a restart."""

    in_force: Settings
    applied: Sequence[str]
    restart: Sequence[str]


def changes(running: Settings, wanted: Settings) -> Changes:
    """From the settings that a daemon runs with to those that its operator wants."""
    merged = msgspec.to_builtins(running)
    other = msgspec.to_builtins(wanted)
    applied, restart = list[str](), list[str]()
    for path in _keys(other, ()):
        if _at(merged, path) == (value := _at(other, path)):
            continue
        if changeable(path):
            applied.append(".".join(path))
            _at(merged, path[:-1])[path[-1]] = value
        else:
            restart.append(".".join(path))
    in_force = msgspec.convert(merged, Settings, strict=False)
    return Changes(in_force=in_force, applied=applied, restart=restart)


def changeable(path: fields.Path) -> bool:
    """Whether a running daemon can take a key's new value."""
    return any(_within(path, known) for known in _AT_RUN_TIME)


def _within(path: fields.Path, known: fields.Path) -> bool:
    pairs = zip(path, known, strict=False)
    return len(path) >= len(known) and all(there in (name, "*") for name, there in pairs)


def _keys(values: dict[str, Any], path: fields.Path) -> Iterator[fields.Path]:
    """A key that takes names of the operator's own is one key: names are not for the log."""
    for name, value in values.items():
        if fields.members(fields.kind_at((*path, name))):
            yield from _keys(value, (*path, name))
        else:
            yield (*path, name)


def _at(values: dict[str, Any], path: fields.Path) -> Any:
    found: Any = values
    for name in path:
        found = found[name]
    return found
