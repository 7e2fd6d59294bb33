"""From a file, the environment and the flags to the settings in force."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings.schema import Settings

_PREFIX = "LEMONADE_"
_NOT_SETTINGS = frozenset(
    {"LEMONADE_CONFIG", "LEMONADE_URL", "LEMONADE_API_KEY", "LEMONADE_CLIENT_ID"}
)
"""Where the command line finds its file and its daemon."""


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings in force. `flags` are nested as the TOML file is; None means not given.

    Raises SettingsError, naming the key and its source, for an unreadable file, an unknown key
    and a value of the wrong type or out of range.
    """
    merged: dict[str, Any] = {}
    for source, layer in (
        (str(file), _read(file) if file else {}),
        ("environment", _from_environment(environment)),
        ("command line", _given(flags or {})),
    ):
        # lax: the environment has only strings; a TOML file must say what it means
        _check(layer, source, lax=source == "environment")
        _merge(merged, layer)
    return msgspec.convert(merged, Settings, strict=False)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for name, value in environment.items():
        if value and name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
            *sections, key = name.removeprefix(_PREFIX).lower().split("__")
            target = layer
            for section in sections:
                target = target.setdefault(section, {})
                if not isinstance(target, dict):
                    raise SettingsError(f"environment: {section} is a section, not a value")
            target[key] = value.split(":") if key == "cache_roots" else value
    return layer


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _given(v) if isinstance(v, Mapping) else v for k, v in flags.items()}
    return {k: v for k, v in nested.items() if v is not None and v != {}}


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _check(layer: Mapping[str, Any], source: str, *, lax: bool) -> None:
    _check_keys(layer, Settings, source, ())
    try:
        msgspec.convert(layer, Settings, strict=not lax)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {error}") from error


def _check_keys(layer: Mapping[str, Any], schema: Any, source: str, path: tuple[str, ...]) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(schema)}
    for key, value in layer.items():
        name = ".".join((*path, key))
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {'.'.join((*path, close[0]))}?" if close else ""
            raise SettingsError(f"{source}: there is no setting {name}{hint}")
        if isinstance(value, Mapping) and isinstance(fields[key], type):
            _check_keys(value, fields[key], source, (*path, key))
