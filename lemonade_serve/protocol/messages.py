"""The frames between the daemon and its children. Tagged, positional, versioned.

A worker says `Hello`, gets `Load`, answers `Ready` or `LoadFailed`; from then on the daemon sends
`Generate` and `Cancel`, and the worker one `Events` frame for each step of its engine. A request
has as many sequences as it asked for, counted from 0. A job says
`Hello`, gets `ImportGguf`, and sends `Progress` until `JobDone` or `JobFailed`. End of file in
either direction means that the other side is gone. Times are seconds on the system's monotonic
clock, which all processes of one machine share.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

PROTOCOL_VERSION = 5
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
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    """How many of the most likely tokens come with each one drawn; None: not even its own."""


class ToolCall(msgspec.Struct, frozen=True):
    """What an assistant wanted done. `arguments` are JSON, as it wrote them."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat. A tool's answer says by `tool_call_id` to which call."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """A function that the caller can run. `parameters` is a JSON Schema, as JSON text."""

    name: str
    description: str | None = None
    parameters: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether the answer must be calls, and whether it may be several."""

    required: bool = False
    parallel: bool = True


class Guidance(msgspec.Struct, frozen=True):
    """What a whole answer must be: `grammar` is a JSON Schema, a regular expression or a Lark
    grammar, by its `kind`. `field` is what the request calls it, for errors."""

    kind: Literal["json_schema", "regex", "lark"]
    grammar: str
    field: str = ""


class TextPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A text to continue; with a `suffix`, what lies between the two is wanted."""

    text: str
    suffix: str | None = None


class TokensPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    tokens: tuple[int, ...]


class ChatPrompt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A chat to answer. `template_kwargs` is a JSON object, as text: what the model's own template
    gets beside the messages and the tools."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    template_kwargs: str = "{}"


Prompt = TextPrompt | TokensPrompt | ChatPrompt


class Load(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Serve the checkpoint in `path` on an execution provider, with these bounds.

    `library` is the execution provider's, where it is a plugin; it gets `provider_options` and runs
    on a device of the kind `hardware`: `npu`, `gpu` or `cpu`.
    """

    path: str
    execution_provider: str
    threads: int
    sequence_slots: int
    kv_cache_tokens: int
    prefill_chunk_tokens: int
    turn_timeout_s: float
    engine: str
    """`auto`, or the name of the only engine that may serve it."""
    guidance_timeout_s: float = 10.0
    library: str | None = None
    provider_options: tuple[tuple[str, str], ...] = ()
    hardware: str = "cpu"


class Work(msgspec.Struct, frozen=True, array_like=True):
    """Continue `prompt` in `n` ways. Requests of different clients take turns, `weight` of one
    client's for each one of a client whose weight is 1. `echo`: tell the prompt first."""

    prompt: Prompt
    params: ResolvedParams
    n: int = 1
    client: str = ""
    weight: float = 1.0
    guidance: Guidance | None = None
    echo: bool = False


class Generate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int
    work: Work


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
    """The checkpoint is loaded and warm. `engine_reason` says why this engine serves it;
    `kv_cache_bytes` is what its sequences may come to take, and have not taken yet."""

    engine: str
    engine_reason: str
    load_s: float
    kv_cache_bytes: int


class LoadFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """With an error of `errors.py`, by its code."""

    code: str
    message: str


class Queued(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request waits for a sequence slot behind so many others."""

    request: int
    ahead: int


class Started(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The prompt was accepted: its length, and how many of its tokens need no prefill.
    `tool_format` is how this model writes calls of tools (domain/tools), if it was given some."""

    request: int
    prompt_tokens: int
    cached_tokens: int
    at: float
    tool_format: str = ""


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """A token, its bytes as the model means them, and the natural logarithm of its probability;
    NaN for the first token of a prompt, which nothing comes before. A `silent` one is a control
    token: no text comes of it."""

    token: int
    text: bytes
    logprob: float
    silent: bool = False


class Echo(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What the prompt is: its text, and if log probabilities were asked for its tokens before that,
    an event each. All sequences of the request begin with it."""

    request: int
    text: str
    logprobs: tuple[Logprob, ...] = ()


class Token(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Sequence `index` has one more token, sampled at `at`. `text` may be empty: held back, or
    special. `logprobs`, if they were asked for: of the token, then of the most likely ones."""

    request: int
    text: str
    at: float
    index: int = 0
    logprobs: tuple[Logprob, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Sequence `index` ended; `text` is what was still held back. The request ends with the last
    of its sequences."""

    request: int
    text: str
    reason: FinishReason
    index: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request ended with an error of `errors.py`, by its code."""

    request: int
    code: str
    message: str
    param: str | None = None


Event = Queued | Started | Echo | Token | Finished | Failed


class Events(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a step of the engine brought. `batch` sequences got a token together; the sequences
    that run have `kv_tokens` of the KV cache to themselves."""

    events: tuple[Event, ...]
    batch: int = 0
    kv_tokens: int = 0


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
