"""What decodes: the one interface between a worker's loop and an engine."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from lemonade_serve import errors
from lemonade_serve.worker.sampler import Sampler


class Sequence(NamedTuple):
    """One prompt to continue. `max_tokens` counts new tokens; prompt and they fit the context."""

    id: int
    prompt: list[int]
    max_tokens: int
    sampler: Sampler


class Admitted(NamedTuple):
    """The sequence has a sequence slot; `cached_tokens` of its prompt need no prefill."""

    id: int
    cached_tokens: int


class Sampled(NamedTuple):
    """The sequence's next token."""

    id: int
    token: int


class Broken(NamedTuple):
    """The engine gave the sequence up and has forgotten it. `code` is one of `errors.py`; what
    there was no memory for may be asked again later, and is `NoCapacity`."""

    id: int
    message: str
    code: str = errors.GenerationFailed.code


Step = Admitted | Sampled | Broken


class Engine(Protocol):
    """Continues many sequences, a step at a time, in the thread that made it.

    An engine knows no text and no end: it samples tokens for a sequence until it is told to
    `release` it. Between two steps it may be given and relieved of any number of sequences.
    """

    name: str

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; it is admitted, in order of arrival, when a sequence slot is free."""

    def step(self) -> list[Step]:
        """Do the least work that makes progress: one prefill chunk, or one token."""

    def release(self, id: int) -> None:
        """Forget a sequence, waiting or running. Unknown ids are ignored."""

    @property
    def idle(self) -> bool:
        """Whether `step` would have nothing to do."""
