"""The directories and the address that a daemon wants: can it have them? Nothing is changed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lemonade_serve.cli import listening
from lemonade_serve.cli.healthcheck import ask
from lemonade_serve.devices.finding import Finding, Level, gib
from lemonade_serve.errors import SettingsError
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.settings import Server
from lemonade_serve.store.directory import LOCK

_SCARCE_BYTES = 2 * 2**30
_ANSWER_TIMEOUT_S = 2.0


def check_cache(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(Level.WARN, "cache_dir", f"{path} is not there yet", _HOW_TO_FILL)
    elif not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        yield Finding(
            Level.FAIL, "cache_dir", f"{path} is no directory that can be read", _another("cache")
        )
    else:
        count = len(DiskCatalog(path).list())
        level, advice = (Level.OK, "") if count else (Level.WARN, _HOW_TO_FILL)
        yield Finding(level, "cache_dir", f"{path}: {count} checkpoints", advice)
        yield _check_disk(path)


_HOW_TO_FILL = "`lemonade-serve import FILE.gguf` puts a checkpoint there"


def _check_disk(path: Path) -> Finding:
    if not os.access(path, os.W_OK):
        return Finding(
            Level.WARN,
            "cache_dir",
            f"{path} is read-only: models are served from it, imports fail",
            _another("cache"),
        )
    free = shutil.disk_usage(path).free
    if free < _SCARCE_BYTES:
        return Finding(
            Level.WARN, "cache_dir", f"only {gib(free)} of disk are free", "an import needs more"
        )
    return Finding(Level.OK, "cache_dir", f"writable, {gib(free)} of disk free")


def check_state(path: Path) -> Finding:
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            Level.FAIL, "state_dir", f"{there} is no directory to write in", _another("state")
        )
    if there != path:
        return Finding(Level.OK, "state_dir", f"{path} is made when the daemon starts")
    if is_held(path / LOCK):
        pid = (path / LOCK).read_text("utf-8", "replace").strip()
        return Finding(Level.OK, "state_dir", f"{path} is in use by a daemon (pid {pid or '?'})")
    return Finding(Level.OK, "state_dir", f"{path} is writable, and no daemon uses it")


def is_held(lock: Path) -> bool:
    """Whether a daemon has it. Shared, so that two who look do not see each other."""
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_address(server: Server, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> Finding:
    """Free, or a daemon's already. Raises SettingsError for a host that is no address."""
    if not server.uds:
        listening.ip_of(server)
    where = server.uds or f"{server.host} port {server.port}"
    try:
        listening.check_address(server)
    except SettingsError as error:
        well, said = ask(server, "/livez", timeout_s)
        if well:
            return Finding(Level.OK, "server", f"a daemon answers on {where}")
        return Finding(Level.FAIL, "server", error.message, f"/livez was asked for there: {said}")
    return Finding(Level.OK, "server", f"{where} is free")


def _another(kind: str) -> str:
    return f"change its owner, or name another with --{kind}-dir or {kind}_dir in the settings"
