"""Where a daemon may listen, and whether it can."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import structlog

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Server, Settings, read_api_keys

log = structlog.get_logger()

_LOOPBACK = "127.0.0.1"


def listening(server: Server) -> str:
    """Where the daemon answers, as a URL."""
    if server.uds:
        return f"unix:{server.uds}"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


def check_listening(settings: Settings) -> None:
    """Raises SettingsError when a daemon may not, or could not, listen there."""
    check_exposure(settings.server, keys=bool(read_api_keys(settings)))
    check_address(settings.server)


def check_exposure(server: Server, *, keys: bool) -> None:
    """Raises SettingsError for an address that others reach, if there are no API keys and it was
    not allowed without. A daemon that is allowed says so in the log."""
    if keys or server.uds or ip_of(server).is_loopback:
        return
    if not server.allow_keyless:
        raise SettingsError(
            f"anyone who reaches {server.host} could use this server: set api_keys, listen on "
            "127.0.0.1, or say --allow-keyless (LEMONADE_SERVER__ALLOW_KEYLESS=true)"
        )
    log.warning("keyless", host=server.host, advice="anyone who reaches this address is served")


def check_address(server: Server) -> None:
    """Raises SettingsError when nobody can listen there: Granian would share the port with another
    daemon, and take over another's socket file."""
    if server.uds:
        _check_socket_file(Path(server.uds))
        return
    family = socket.AF_INET6 if ip_of(server).version == 6 else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(ip_of(server)), server.port))
    except OSError as error:  # a kernel may have no IPv6 too
        raise SettingsError(
            f"cannot listen on {server.host} port {server.port}: {error.strerror}. "
            "Is a daemon running already? Choose another port with --port"
        ) from error


def _check_socket_file(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise SettingsError(f"cannot listen on {path}: it is there already, and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # left behind by a daemon that was killed
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError(f"cannot listen on {path}: {error.strerror}") from error
        else:
            raise SettingsError(f"a daemon is listening on {path} already")


def ip_of(server: Server) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises SettingsError for what is no address."""
    try:
        return ipaddress.ip_address(_LOOPBACK if server.host == "localhost" else server.host)
    except ValueError:
        raise SettingsError(f"server.host must be an IP address, not {server.host!r}") from None
