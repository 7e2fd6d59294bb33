"""Facts: what happened, for whoever observes. Nothing here decides."""

from __future__ import annotations

import msgspec


class CheckpointLoaded(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    device: str
    dtype: str
    engine: str
    pid: int
    load_s: float


class CheckpointLoadFailed(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    device: str
    dtype: str
    reason: str


class CheckpointUnloaded(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    device: str
    dtype: str


class WorkerExited(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process ended although nobody had asked it to."""

    model: str
    device: str
    dtype: str
    reason: str


Event = CheckpointLoaded | CheckpointLoadFailed | CheckpointUnloaded | WorkerExited
