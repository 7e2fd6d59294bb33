"""One engine computes at a time: models that are busy together take turns at the cores.

Each step uses all threads that there are; two at once would have more threads than cores, and those
wait for each other at every operator. The lock dies with its process, whatever it was in.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Workers that have the same file and the same `lane` exclude each other, in turn.

    Whoever waits for the cores holds the door, so that the one who leaves them cannot come in again
    before him. Locks are record locks of the process (fcntl(2)): a byte each for door and cores.
    """

    def __init__(self, descriptor: int, lane: int) -> None:
        self._descriptor = descriptor
        self._door, self._cores = 2 * lane, 2 * lane + 1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The cores are ours."""
        self._lock(fcntl.LOCK_EX, self._door)
        self._lock(fcntl.LOCK_EX, self._cores)
        self._lock(fcntl.LOCK_UN, self._door)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, self._cores)

    def _lock(self, how: int, byte: int) -> None:
        fcntl.lockf(self._descriptor, how, 1, byte)
