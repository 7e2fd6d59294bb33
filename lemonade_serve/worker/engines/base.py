"""What decodes: the one interface between a worker's loop and an engine."""

from __future__ import annotations

from collections.abc import Sequence as Some
from typing import NamedTuple, Protocol

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Adapter
from lemonade_serve.worker.sampler import Draw, Drawing


class Id(NamedTuple):
    """A sequence: the request that it belongs to, and the how-manieth of its sequences it is."""

    request: int
    nth: int


class Sequence(NamedTuple):
    """One way to continue a prompt."""

    id: Id
    drawing: Drawing


class Group(NamedTuple):
    """One prompt, and the sequences that continue it. `max_tokens` of each counts new tokens.
    `scored`: the prompt's own tokens are wanted, each with so many of the most likely ones. Only an
    engine that `takes_adapters` is given one with an `adapter`."""

    prompt: Some[int]
    max_tokens: int
    sequences: Some[Sequence]
    scored: int | None = None
    adapter: Adapter | None = None

    @property
    def tokens(self) -> int:
        """What each of its sequences may come to hold."""
        return len(self.prompt) + self.max_tokens


class Admitted(NamedTuple):
    """The prompt of this sequence is being read; `cached_tokens` of it need not be."""

    id: Id
    cached_tokens: int


class Scored(NamedTuple):
    """The next token of the prompt, from its second one on, as if it had been drawn. Of a group
    that is scored, the first sequence has them all before it has a token of its own."""

    id: Id
    draw: Draw


class Sampled(NamedTuple):
    """The sequence's next token."""

    id: Id
    draw: Draw


class Broken(NamedTuple):
    """The engine gave the sequence up and has forgotten it. `code` is one of `errors.py`; what
    there was no memory for may be asked again later, and is `NoCapacity`."""

    id: Id
    message: str
    code: str = errors.GenerationFailed.code

    @classmethod
    def by(cls, error: Exception, id: Id) -> Broken:
        return cls(id, str(error) or type(error).__name__, failure_code(error))


Event = Admitted | Scored | Sampled | Broken


class Step(NamedTuple):
    """What one step brought. `batch` sequences got a token together."""

    events: Some[Event]
    batch: int = 0


class Engine(Protocol):
    """Continues many sequences, a step at a time, in the thread that made it.

    An engine knows no text and no end: it samples tokens for a sequence until it is told to
    `release` it. Between two steps it may be given and relieved of any number of sequences.
    """

    name: str

    sequence_slots: int
    """So many sequences run at once."""

    kv_cache_tokens: int
    """So many tokens, prompts included, they may come to hold together."""

    takes_adapters: bool
    """Whether it can compute with adapters."""

    kv_cache_bytes: int
    """What its KV cache may come to take; its pages cost nothing until they are written to."""

    def fits(self, group: Group) -> bool:
        """Whether there is room for a group now. One that is within the bounds fits when nothing
        else runs."""

    def start(self, group: Group) -> None:
        """Begin a group that fits. Its first sequence is admitted when its prompt's turn comes."""

    def step(self) -> Step:
        """Do the least work that makes progress: one prefill chunk, or one token for everyone, or
        both. Only when it is not idle."""

    def release(self, id: Id) -> None:
        """Forget a sequence. Unknown ids are ignored."""

    @property
    def idle(self) -> bool:
        """Whether `step` would have nothing to do."""

    @property
    def kv_tokens(self) -> int:
        """Tokens of the KV cache that running sequences have to themselves."""


def failure_code(error: Exception) -> str:
    """What becomes of a sequence whose computation raised `error`: ours say it themselves, native
    code says that there was no memory in words only."""
    if isinstance(error, errors.LemonadeError):
        return error.code
    said = str(error).lower()
    short = isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY)
    return errors.NoCapacity.code if short else errors.GenerationFailed.code


_NO_MEMORY = ("could not allocate", "failed to allocate", "bad_alloc", "out of memory")


def common_prefix(a: Some[int], b: Some[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # comparing slices is native code: fast for the long prefixes that matter
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def chunk_of(pending: int, bound: int) -> int:
    """How many of a prompt's `pending` tokens are read at once: never its last one alone. Kernels
    for one row round differently than those for many, and a prompt should give the same text
    however it was cut."""
    return bound - 1 if pending == bound + 1 else min(bound, pending)
