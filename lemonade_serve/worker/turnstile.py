"""One engine computes at a time: models that are busy together take turns at the cores.

Each step uses all threads that there are; two at once would have more threads than cores, and those
wait for each other at every operator. The lock dies with its process, whatever it was in.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Workers that have the same file and the same `lane` exclude each other, in turn.

    Whoever waits for the cores holds the door, so that the one who leaves them cannot come in again
    before him. Locks are record locks of the process (fcntl(2)): a byte each for door and cores. A
    process that stands still with the cores holds nobody up for longer than `timeout_s`: the others
    go in beside it, until it has left. Of the main thread only, whose SIGALRM it takes.
    """

    def __init__(self, descriptor: int, *, lane: int, timeout_s: float) -> None:
        self._descriptor = descriptor
        self._door, self._cores = 2 * lane, 2 * lane + 1
        self._timeout_s = timeout_s
        self._patient = True
        self._waiting = False
        signal.signal(signal.SIGALRM, self._ring)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The cores are ours, or else we have waited long enough."""
        self._enter()
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, self._cores)

    def _enter(self) -> None:
        how = fcntl.LOCK_EX if self._patient else fcntl.LOCK_EX | fcntl.LOCK_NB
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            self._waiting = True
            self._lock(how, self._door)
            self._lock(how, self._cores)
            self._waiting = False
            self._patient = True
        except OSError:  # late, or somebody is there and we are not patient any more
            self._waiting = self._patient = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._lock(fcntl.LOCK_UN, self._door)

    def _ring(self, *_: object) -> None:
        if self._waiting:
            raise TimeoutError

    def _lock(self, how: int, byte: int) -> None:
        fcntl.lockf(self._descriptor, how, 1, byte)
