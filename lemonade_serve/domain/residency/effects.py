"""What the scheduler wants done. It is the pool that does it."""

from __future__ import annotations

from typing import NamedTuple

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.events import Event
from lemonade_serve.domain.residency.slot import Key


class StartLoad(NamedTuple):
    """Launch a worker. Comes back as `loaded` or `failed`."""

    key: Key
    info: CheckpointInfo


class AbortLoad(NamedTuple):
    """Give a load up. Comes back as `failed`, or if it was too late as `loaded`."""

    key: Key


class StopWorker(NamedTuple):
    """End a worker, and with `cause` what it still runs. Comes back as `exited`."""

    key: Key
    cause: errors.LemonadeError


class Grant(NamedTuple):
    """The ticket has a lease on the checkpoint, until `leave`."""

    ticket: int
    key: Key


class Refuse(NamedTuple):
    """The ticket gets nothing, and is forgotten."""

    ticket: int
    error: errors.LemonadeError


class Unloaded(NamedTuple):
    """All that an unload was to take is gone: so many checkpoints."""

    ticket: int
    checkpoints: int


class Tell(NamedTuple):
    """A fact, for the observer."""

    event: Event


Effect = StartLoad | AbortLoad | StopWorker | Grant | Refuse | Unloaded | Tell
