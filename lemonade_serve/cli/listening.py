"""Where a daemon may listen, and whether it can."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path

import structlog

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server, Settings, read_api_keys

log = structlog.get_logger()

_LOOPBACK = "127.0.0.1"
_ADVICE = {
    errno.EADDRINUSE: "Is a daemon running already? Choose another port with --port",
    errno.EACCES: "Ports below 1024 are not for every user: choose another with --port",
}


def listening(server: Server) -> str:
    """Where the daemon answers, as a URL."""
    if server.uds:
        return f"unix:{server.uds}"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


def check_listening(settings: Settings) -> None:
    """Raises SettingsError when a daemon may not, or could not, listen there. Takes away what a
    daemon that was killed left behind."""
    check_exposure(settings.server, keys=bool(read_api_keys(settings)))
    check_address(settings.server)
    if settings.server.uds:
        Path(settings.server.uds).unlink(missing_ok=True)


def check_exposure(server: Server, *, keys: bool) -> None:
    """Raises SettingsError as `is_keyless` does. A daemon that is allowed says so in the log."""
    if is_keyless(server, keys=keys):
        log.warning("keyless", host=server.host, advice="anyone who reaches this address is served")


def is_keyless(server: Server, *, keys: bool) -> bool:
    """Whether others than this machine reach it and need no API key. Raises SettingsError if that
    was not allowed."""
    if keys or server.uds or ip_of(server).is_loopback:
        return False
    if not server.allow_keyless:
        raise SettingsError(
            f"anyone who reaches {server.host} could use this server: set api_keys, listen on "
            "127.0.0.1, or say --allow-keyless (LEMONADE_SERVER__ALLOW_KEYLESS=true)"
        )
    return True


def check_address(server: Server) -> None:
    """Raises SettingsError when nobody can listen there: Granian would share the port with another
    daemon, and take over another's socket file. Changes nothing."""
    if server.uds:
        _check_socket_file(Path(server.uds))
        return
    family = socket.AF_INET6 if ip_of(server).version == 6 else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(ip_of(server)), server.port))
    except OSError as error:  # a kernel may have no IPv6 too
        advice = _ADVICE.get(error.errno or 0, "Choose another address with --host")
        raise SettingsError(
            f"cannot listen on {server.host} port {server.port}: {error.strerror}. {advice}"
        ) from error


def _check_socket_file(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise SettingsError(f"cannot listen on {path}: it is there already, and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one that hangs takes no more connections
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            pass  # left behind by a daemon that was killed
        except FileNotFoundError:
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise SettingsError(
                    f"cannot listen on {path}: {path.parent} is no directory to write in"
                ) from None
        except BlockingIOError:
            raise SettingsError(f"cannot listen on {path}: whoever does it now hangs") from None
        except OSError as error:
            why = error.strerror or error  # a path that is too long has none
            raise SettingsError(f"cannot listen on {path}: {why}") from error
        else:
            raise SettingsError(f"a daemon is listening on {path} already")


def ip_of(server: Server) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises SettingsError for what is no address."""
    try:
        return ipaddress.ip_address(_LOOPBACK if server.host == "localhost" else server.host)
    except ValueError:
        raise SettingsError(f"server.host must be an IP address, not {server.host!r}") from None
