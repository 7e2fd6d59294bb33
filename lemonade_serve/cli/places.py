"""The directories and the address that a daemon wants: can it have them? Nothing is changed."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx

from lemonade_serve.devices.finding import Finding, Level, gib
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.settings import Server
from lemonade_serve.store.directory import LOCK

_SCARCE_BYTES = 2 * 2**30
_ANSWER_TIMEOUT_S = 2.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104


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
    """Free, or a daemon's already."""
    if server.uds and (nobody_listens := _check_socket_file(Path(server.uds))):
        return nobody_listens
    if not server.uds and not _is_address(server.host):
        return Finding(Level.FAIL, "server", f"server.host {server.host!r} is no IP address")
    where = server.uds or f"{server.host} port {server.port}"
    try:
        answer = _get_livez(server, timeout_s)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return _check_free(server, where)
    except httpx.TransportError as error:
        answer = type(error).__name__
    if answer == "ok":
        return Finding(Level.OK, "server", f"a daemon answers on {where}")
    return Finding(
        Level.FAIL,
        "server",
        f"what listens on {where} is no lemonade-serve ({answer})",
        "choose another with --port or --uds",
    )


def _get_livez(server: Server, timeout_s: float) -> str:
    host = _ANY.get(server.host, server.host)
    url = f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"
    transport = httpx.HTTPTransport(uds=server.uds)
    with httpx.Client(transport=transport, timeout=timeout_s, trust_env=False) as client:
        response = client.get(f"{url}/livez")
    ours = response.is_success and "status" in response.text
    return "ok" if ours else f"HTTP status {response.status_code}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(_ANY.get(host, host))
    except ValueError:
        return False
    return True


def _check_free(server: Server, where: str) -> Finding:
    host = "127.0.0.1" if server.host == "localhost" else server.host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, server.port))
        except OSError as error:
            return Finding(
                Level.FAIL,
                "server",
                f"a daemon could not listen on {where}: {error.strerror}",
                "choose another address with --host and --port",
            )
    return Finding(Level.OK, "server", f"{where} is free")


def _check_socket_file(path: Path) -> Finding | None:
    """None when somebody listens there. (httpx leaves a socket open when nobody does.)"""
    if not path.exists():
        if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK):
            return Finding(Level.OK, "server", f"{path} is free")
        said = f"{path.parent} is no directory to write in"
        return Finding(Level.FAIL, "server", said, "change server.uds")
    if not path.is_socket():
        return Finding(Level.FAIL, "server", f"{path} is there, and is no socket", "move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return Finding(Level.OK, "server", f"{path} is free")
        except OSError as error:
            said = f"{path} cannot be connected to: {error.strerror or error}"
            return Finding(Level.FAIL, "server", said, "change server.uds")
    return None


def _another(kind: str) -> str:
    return f"change its owner, or name another with --{kind}-dir or {kind}_dir in the settings"
