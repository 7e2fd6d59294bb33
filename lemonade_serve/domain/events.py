"""Facts: what happened, for whoever observes. Nothing here decides, and nothing names a client."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.names import joined


class Departure(enum.Enum):
    """Why a checkpoint left."""

    LRU = "lru"  # another one needed the room
    TTL = "ttl"  # nobody used it for long enough
    PRESSURE = "pressure"  # its device used more memory than its budget
    MANUAL = "manual"  # a caller unloaded it
    CRASH = "crash"  # its worker died
    SHUTDOWN = "shutdown"


class Outcome(enum.Enum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"  # its client left
    REJECTED = "rejected"  # it may be sent again later


class CheckpointEvent(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    device: str
    dtype: str


class CheckpointLoading(CheckpointEvent, frozen=True, kw_only=True):
    """Its worker is being started; `reserved_bytes` is what it is expected to take."""

    reserved_bytes: int


class CheckpointLoaded(CheckpointEvent, frozen=True, kw_only=True):
    """`memory_bytes` is what it is charged: what its worker takes, and what the KV cache of that
    may come to take; 0 when the worker is gone already."""

    engine: str
    engine_reason: str
    pid: int
    load_s: float
    memory_bytes: int


class CheckpointLoadFailed(CheckpointEvent, frozen=True, kw_only=True):
    reason: str


class CheckpointUnloaded(CheckpointEvent, frozen=True, kw_only=True):
    """Its worker is gone and reaped. `idle_s`: since its last use. `how`: its exit, in words."""

    reason: Departure
    idle_s: float
    how: str


class CheckpointRequested(CheckpointEvent, frozen=True, kw_only=True):
    """A request wants the checkpoint; `resident`: it was there already."""

    resident: bool


class BatchDecoded(CheckpointEvent, frozen=True, kw_only=True):
    """One step of an engine gave so many sequences a token, or encoded so many inputs. Comes a
    hundred times a second."""

    sequences: int


class CatalogueListed(msgspec.Struct, frozen=True, kw_only=True):
    """These are all models that there are: on disk, or in memory. Of those that encode, `encoders`
    says for what."""

    models: frozenset[str]
    encoders: Mapping[str, str] = {}


class RequestFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A request ended, however. Times are in seconds, and None where it did not come so far.

    `duration_s` and `time_to_first_token` count from its arrival, `queue_s` to the start of its
    prefill, `prefill_s` from there to its first token, `decode_s` from there to its last.
    `token_gaps` are the times between two tokens of a sequence: of all its sequences, one after
    the other; `completion_tokens` are of all too. One that `generates` nothing has no first token.
    """

    model: str
    device: str
    dtype: str
    endpoint: str
    outcome: Outcome
    reason: str
    """Its finish_reason, or the code of its error."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_s: float
    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None
    time_to_first_token: float | None
    token_gaps: tuple[float, ...]
    generates: bool = True
    traceparent: str = ""
    """The caller's trace, in W3C's words; empty if it said nothing."""
    adapter: str | None = None
    """The model's, if it was asked with one. No metric is labelled with it."""

    @property
    def answered_by(self) -> str:
        """What was asked for and answered: the model, or one of its adapters."""
        return joined(self.model, self.adapter)

    @property
    def time_per_output_token(self) -> float | None:
        """The mean gap: (last token - first token) / (tokens - 1), if it has one sequence."""
        return sum(self.token_gaps) / len(self.token_gaps) if self.token_gaps else None

    @property
    def tokens_per_second(self) -> float | None:
        """While decoding: the inverse of `time_per_output_token`."""
        return 1 / gap if (gap := self.time_per_output_token) else None


class RequestRefused(msgspec.Struct, frozen=True, kw_only=True):
    """A request was turned away before it had a checkpoint to wait for. `model` is what it named,
    without a dtype or an adapter, whether or not there is such a thing."""

    model: str | None
    endpoint: str
    outcome: Outcome
    reason: str
    """The code of its error."""
    duration_s: float = 0.0
    traceparent: str = ""

    @classmethod
    def by(
        cls,
        error: errors.LemonadeError,
        *,
        model: str | None,
        endpoint: str,
        duration_s: float,
        traceparent: str,
    ) -> RequestRefused:
        rejected = isinstance(error, errors.Retryable)
        return cls(
            model=model,
            endpoint=endpoint,
            outcome=Outcome.REJECTED if rejected else Outcome.ERROR,
            reason=error.code,
            duration_s=duration_s,
            traceparent=traceparent,
        )


Event = (
    CheckpointLoading
    | CheckpointLoaded
    | CheckpointLoadFailed
    | CheckpointUnloaded
    | CheckpointRequested
    | BatchDecoded
    | CatalogueListed
    | RequestFinished
    | RequestRefused
)
