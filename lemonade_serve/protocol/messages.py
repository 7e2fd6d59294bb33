"""The frames between the daemon and its children. Tagged, positional, versioned.

A worker says `Hello`, gets `Load`, answers `Ready` or `LoadFailed`; from then on the daemon sends
`Generate` and `Cancel`, and the worker one `Events` frame for each step of its engine. A job says
`Hello`, gets `ImportGguf`, and sends `Progress` until `JobDone` or `JobFailed`. End of file in
either direction means that the other side is gone. Times are seconds on the system's monotonic
clock, which all processes of one machine share.
"""

from __future__ import annotations

import enum

import msgspec

PROTOCOL_VERSION = 2
"""Raised with every change of a frame: an upgraded package must not serve an old daemon."""


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"


class ResolvedParams(msgspec.Struct, frozen=True, kw_only=True):
    """All generation parameters of one request, each decided. Lengths are in new tokens."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 50
    min_length: int = 0
    max_length: int = 2048
    do_sample: bool = True
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: str
    content: str


class TextPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    text: str


class TokensPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    tokens: tuple[int, ...]


class ChatPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    messages: tuple[Message, ...]


Prompt = TextPrompt | TokensPrompt | ChatPrompt


class Load(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Serve the checkpoint in `path` on an execution provider, with these bounds."""

    path: str
    execution_provider: str
    threads: int
    sequence_slots: int
    idle_sequences: int
    prefill_chunk_tokens: int


class Generate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int
    prompt: Prompt
    params: ResolvedParams


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int


class ImportGguf(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Make a checkpoint out of the GGUF file `source`, in the empty directory `into`."""

    source: str
    into: str
    dtype: str


Command = Load | Generate | Cancel | ImportGguf


class Hello(msgspec.Struct, frozen=True, tag=True, array_like=True):
    version: int


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The checkpoint is loaded and warm."""

    engine: str
    load_s: float


class LoadFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """With an error of `errors.py`, by its code."""

    code: str
    message: str


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The prompt was accepted: its length, and how many of its tokens need no prefill."""

    request: int
    prompt_tokens: int
    cached_tokens: int
    at: float


class Token(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One more token was generated, at `at`. `text` may be empty: held back, or special."""

    request: int
    text: str
    at: float


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request ended; `text` is what was still held back."""

    request: int
    text: str
    reason: FinishReason


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request ended with an error of `errors.py`, by its code."""

    request: int
    code: str
    message: str
    param: str | None = None


Event = Started | Token | Finished | Failed


class Events(msgspec.Struct, frozen=True, tag=True, array_like=True):
    events: tuple[Event, ...]


class Progress(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a job is doing, and how much of the whole is done (0 to 1)."""

    stage: str
    fraction: float


class JobDone(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The directory is complete. `dtype` is what its matrices really are, `name` a suggestion."""

    name: str
    dtype: str


class JobFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    code: str
    message: str


Report = Hello | Ready | LoadFailed | Events | Progress | JobDone | JobFailed
