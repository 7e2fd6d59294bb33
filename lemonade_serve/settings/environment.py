"""Settings in the environment: `LEMONADE_<FIELD>`, `LEMONADE_<SECTION>__<FIELD>`.

A list's parts are separated by colons. What comes after `LEMONADE_API_KEYS__` is a client's name,
in lower case. A variable that is empty says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings.fields import Path, is_list, kind_at, takes_names

_PREFIX = "LEMONADE_"
_NESTED = "__"
_NOT_SETTINGS = frozenset(
    {"LEMONADE_CONFIG", "LEMONADE_URL", "LEMONADE_API_KEY", "LEMONADE_CLIENT_ID"}
)
"""Where the command line finds its file and its daemon, and as whom it asks."""


def read_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[Path, str]]:
    """The settings that it has, nested as the TOML file is, and the variable of each.

    Raises SettingsError for a key that is given as a value and as a section.
    """
    values: dict[str, Any] = {}
    variables: dict[Path, str] = {}
    for name, value in environment.items():
        if value and name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
            path = _path(name)
            _put(values, path, value.split(":") if is_list(kind_at(path)) else value)
            variables[path] = name
    return values, variables


def variable(path: Path) -> str:
    """What a key is called in the environment."""
    return _PREFIX + _NESTED.join(path).upper()


def _path(name: str) -> Path:
    parts = name.removeprefix(_PREFIX).lower().split(_NESTED)
    for depth in range(1, len(parts)):
        if takes_names(kind_at(parts[:depth])):
            return (*parts[:depth], _NESTED.join(parts[depth:]))
    return tuple(parts)


def _put(values: dict[str, Any], path: Path, value: object) -> None:
    *sections, key = path
    for depth, section in enumerate(sections):
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise _contradiction(path[: depth + 1])
    if isinstance(values.get(key), dict):
        raise _contradiction(path)
    values[key] = value


def _contradiction(path: Path) -> SettingsError:
    return SettingsError(f"environment: {'.'.join(path)} is given as a section and as a value")
