"""What an examination of the machine came to."""

from __future__ import annotations

import enum

import msgspec


class Level(enum.Enum):
    OK = "ok"
    WARN = "warn"  # it works, and something is worth a look
    FAIL = "fail"  # the daemon, or what is set, will not work


class Finding(msgspec.Struct, frozen=True):
    """One line of it. `advice` says what to do next; nothing where there is nothing to do."""

    level: Level
    subject: str
    said: str
    advice: str = ""


def gib(number_bytes: float) -> str:
    """For people."""
    return f"{number_bytes / 2**30:.1f} GiB"
