"""Whose state directory it is."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from lemonade_serve.errors import SettingsError

LOCK = "lock"
"""The file in it that a daemon holds."""


class StateDirectory:
    """One daemon's, while the context lasts or the process lives, whichever ends first.

    Made, for its owner only, when it is not there. Entering raises SettingsError when another
    daemon has it, or when it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _take(self.path / LOCK)
        except BlockingIOError:
            raise SettingsError(
                f"another daemon{_owner(self.path / LOCK)} uses {self.path}: stop it, or name "
                "another one with --state-dir / LEMONADE_STATE_DIR"
            ) from None
        except OSError as error:
            raise SettingsError(f"state_dir {self.path}: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _take(path: Path) -> int:
    """An open descriptor that holds the lock. Raises BlockingIOError when another one does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _owner(path: Path) -> str:
    """Who wrote its process id there, for a message; nobody if it is writing that just now."""
    pid = path.read_bytes().strip()
    return f" (pid {int(pid)})" if pid.isdigit() else ""
