"""The settings in force as a list, with nothing in it that must stay secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from lemonade_serve.settings import fields
from lemonade_serve.settings.load import Sourced

_STARS = "***"
_AUTHORITY = re.compile(r"^([^:/@]+://[^:@]*):.*@", re.DOTALL)
"""To the last @: a password that is not quoted may have one in it."""
_PARAMETER = re.compile(r"([?&][^=&]*pass[^=&]*=)[^&]*", re.IGNORECASE)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One key: `value` is of TOML's types, or None for a key that is not set."""

    path: fields.Path
    value: str | int | float | bool | list[str] | dict[str, str] | None
    source: str

    @property
    def key(self) -> str:
        return ".".join(self.path)


def entries(sourced: Sourced) -> list[Entry]:
    """Every key, in the schema's order; secrets are stars."""
    return [
        Entry(
            path=path,
            value=_shown(value, fields.secrecy(fields.kind_at(path))),
            source=sourced.source(".".join(path)),
        )
        for path, value in _leaves(msgspec.to_builtins(sourced.settings), ())
    ]


def _leaves(values: dict[str, Any], path: fields.Path) -> Iterator[tuple[fields.Path, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), list(value) if isinstance(value, tuple) else value


def _shown(value: Any, secrecy: str | None) -> Any:
    if value is None or secrecy is None:
        return value
    return _without_password(str(value)) if secrecy == "password" else _STARS


def _without_password(url: str) -> str:
    if "://" not in url:
        return _STARS
    return _PARAMETER.sub(rf"\1{_STARS}", _AUTHORITY.sub(rf"\1:{_STARS}@", url))
