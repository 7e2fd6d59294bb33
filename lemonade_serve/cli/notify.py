"""What systemd is told of the daemon's life (`Type=notify-reload`), over its datagram socket."""

from __future__ import annotations

import os
import socket
import time

import structlog

log = structlog.get_logger()

READY = "READY=1"
STOPPING = "STOPPING=1"


def reloading() -> str:
    """A reload has begun just now; `READY` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def tell(state: str) -> None:
    """Say it to whoever started us, if they listen; they need not."""
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    if address.startswith("@"):  # a name that is no file
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as datagrams:
            datagrams.sendto(state.encode(), address)
    except OSError as error:
        log.warning("notify_failed", reason=str(error))
