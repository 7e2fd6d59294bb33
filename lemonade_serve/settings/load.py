"""From a file, the environment and the flags to the settings in force."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import fields
from lemonade_serve.settings.environment import read_environment, variable
from lemonade_serve.settings.schema import Settings

_ENVIRONMENT = "environment"


class Sourced(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force, and who said so."""

    settings: Settings
    sources: Mapping[str, str]
    """For each key that was set, dotted: the file, the variable, or `command line`."""

    def source(self, key: str) -> str:
        return self.sources.get(key, "default")


class _Layer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    values: dict[str, Any]
    variables: Mapping[fields.Path, str] = {}

    def sources(self) -> dict[str, str]:
        return {
            ".".join(path): self.variables.get(path, self.name) for path in _leaves(self.values)
        }


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings in force. `flags` are nested as the TOML file is; None means not given.

    Raises SettingsError, naming the key and its source but no value, for an unreadable file, an
    unknown key and a value of the wrong type or out of range.
    """
    return load_sourced(file=file, environment=environment, flags=flags).settings


def load_sourced(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Sourced:
    """As `load_settings`, with the source of each key."""
    # the CPU's section has defaults that a section of its kind has not
    merged: dict[str, Any] = msgspec.to_builtins(Settings())
    sources: dict[str, str] = {}
    from_environment, variables = read_environment(environment)
    for layer in (
        _Layer(name=str(file), values=_read(file) if file else {}),
        _Layer(name=_ENVIRONMENT, values=from_environment, variables=variables),
        _Layer(name="command line", values=_given(flags or {})),
    ):
        _check(layer)
        _merge(merged, layer.values)
        sources.update(layer.sources())
    settings = msgspec.convert(merged, Settings, strict=False)
    return Sourced(settings=settings, sources=sources)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from error


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: _given(v) if isinstance(v, Mapping) else v for k, v in flags.items()}
    return {k: v for k, v in nested.items() if v is not None and v != {}}


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _leaves(values: Mapping[str, Any], path: fields.Path = ()) -> Iterator[fields.Path]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _check(layer: _Layer) -> None:
    _check_keys(layer.values, layer.name, ())
    # lax: the environment has only strings; a TOML file must say what it means
    try:
        msgspec.convert(layer.values, Settings, strict=layer.name != _ENVIRONMENT)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{layer.name}: {error}") from error


def _check_keys(values: Mapping[str, Any], source: str, path: fields.Path) -> None:
    known = fields.members(fields.kind_at(path))
    for key, value in values.items() if known else ():
        if key not in known:
            raise _unknown(source, (*path, key))
        if isinstance(value, Mapping):
            _check_keys(value, source, (*path, key))


def _unknown(source: str, path: fields.Path) -> SettingsError:
    said = f"{source}: there is no setting {'.'.join(path)}"
    if (key := fields.meant(path)) is None:
        return SettingsError(said)
    elsewhere = source == _ENVIRONMENT and key[:-1] != path[:-1]
    name = variable(key) if elsewhere else ".".join(key)
    return SettingsError(f"{said}; did you mean {name}?")
