"""What an operator may set: a TOML file, then the environment, then flags; the last one wins.

Every bound that an operator may have to move is a field here, with its unit in the name (`_s`
seconds, `_bytes`, `_tokens`). In the environment a field is `LEMONADE_<FIELD>`, or
`LEMONADE_<SECTION>__<FIELD>`; a variable that is empty says nothing.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lemonade_serve.errors import SettingsError

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how the daemon answers."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1234
    uds: str | None = None
    """A Unix socket to listen on, instead of host and port."""
    allow_keyless: bool = False
    """Answer on other addresses than loopback although no API key is set."""
    max_connections: Count = 1024
    """Connections held open at the same time; further ones wait to be accepted."""
    max_body_bytes: Count = 16 * 1024 * 1024
    status_hold_s: Seconds = 1.0
    """A stream's HTTP status waits so long for the first token, so that errors can be honest."""
    keepalive_s: Annotated[float, Meta(gt=0, le=10)] = 5.0
    """The longest silence on a stream before a comment is sent."""
    drain_timeout_s: Seconds = 30.0
    """After SIGTERM, requests that still run get so long to finish."""


class Worker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process that serves one checkpoint."""

    threads: Annotated[int, Meta(ge=0)] = 0
    """Threads that compute; 0 means the CPUs that this process may use."""
    sequence_slots: Count = 16
    """Sequences that advance at the same time."""
    max_queue: Annotated[int, Meta(ge=0)] = 64
    """Requests of a model that may wait for a sequence slot; one more is refused with 429."""
    idle_sequences: Annotated[int, Meta(ge=0)] = 4
    """KV caches kept after their sequence ended, for prompts that begin the same."""
    prefill_chunk_tokens: Annotated[int, Meta(ge=16)] = 256
    """A prompt is read in pieces of so many tokens; other streams advance in between."""
    handshake_timeout_s: Seconds = 30.0
    load_timeout_s: Seconds = 600.0
    stop_timeout_s: Seconds = 5.0
    """A worker that was asked to stop is killed after this."""
    unload_timeout_s: Seconds = 600.0
    """An unload waits so long for running requests, then cuts them."""


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processes that do long work once, such as an import."""

    timeout_s: Seconds = 7200.0
    """A job that takes longer is ended."""


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to standard error."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, Meta(pattern="^(auto|json|console)$")] = "auto"
    """`auto`: for people on a terminal, JSON everywhere else."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cache_dir: str = "~/.cache/lemonade"
    """Where checkpoints are."""
    cache_roots: tuple[str, ...] = ()
    """Further directories that a client's `cache_dir` may name."""
    default_model: str | None = None
    """Serves requests that name no model while none is resident."""
    server: Server = Server()
    worker: Worker = Worker()
    job: Job = Job()
    log: Log = Log()

    @property
    def cache_path(self) -> Path:
        return _absolute(self.cache_dir)

    @property
    def cache_root_paths(self) -> list[Path]:
        return [_absolute(root) for root in self.cache_roots]


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(f"{path}: {error}") from error


_PREFIX = "LEMONADE_"
_NOT_SETTINGS = frozenset({"LEMONADE_CONFIG", "LEMONADE_URL"})
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
