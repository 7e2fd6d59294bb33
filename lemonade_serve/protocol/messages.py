"""The frames between the daemon and its children. Tagged, positional, versioned.

A worker says `Hello`, gets `Load`, answers `Ready` or `LoadFailed`; from then on the daemon sends
`Generate` and `Cancel`, and the worker one `Events` frame for each step of its engine. A request
has as many sequences as it asked for, counted from 0. The worker of an encoder gets `Encode`
instead of `Generate`, and answers with an `Encoded` for each input, in any order. Jobs have frames
of their own (`jobs.py`). End of file in either direction means that the other side is gone. Times
are seconds on the system's monotonic clock, which all processes of one machine share.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from lemonade_serve.protocol.jobs import (
    ConvertModel,
    Exporter,
    Fetched,
    FetchFiles,
    FindExporter,
    ImportGguf,
    JobDone,
    JobFailed,
    ListRepository,
    Progress,
    Repository,
)

PROTOCOL_VERSION = 7
"""Raised with every change of a frame: an upgraded package must not serve an old daemon."""

_FLOAT_BYTES = 4


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


class Encoder(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint says of itself that encodes and does not generate. `graph` is a path in its
    directory. `pooling` makes one vector of those of all tokens; it is `none` where the graph does.

    An embedding model makes a vector of a text, of length 1 if it is `normalized`; a `rerank` one
    a score of a query and a document.
    """

    task: Literal["embedding", "rerank"]
    graph: str
    max_tokens: int
    """Of one input, special tokens included."""
    pooling: Literal["mean", "cls", "last", "max", "none"] = "mean"
    normalized: bool = True
    lowercase: bool = False
    prompt: str = ""
    """What the checkpoint puts before each text."""
    dimensions: tuple[int, ...] = ()
    """The shorter lengths that its vectors were trained for; empty: it says nothing of them."""
    heads: int = 0
    width: int = 0
    """Numbers that a layer has for each token at the same time."""
    alone: bool = False
    """Its numbers would depend on what is read beside them: inputs are read one at a time."""

    def limit(self, at_most: int) -> int:
        """Tokens of one input, where the settings allow `at_most`."""
        return min(self.max_tokens, at_most)

    def batch_bytes(self, batch_tokens: int, at_most: int) -> int:
        """What encoding takes beside the weights: three copies of the largest layer's numbers, and
        of the attention of its tokens to each other, in float32."""
        longest = self.limit(at_most)
        tokens = max(batch_tokens, longest)
        return 3 * _FLOAT_BYTES * tokens * (self.width + self.heads * longest)


class Load(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Serve the checkpoint in `path` on an execution provider, with these bounds. With an `encoder`
    those of sequences mean nothing.

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
    encoder: Encoder | None = None
    encode_batch_tokens: int = 512
    encode_input_tokens: int = 2048
    max_adapter_bytes: int = 1 << 30
    """Of adapters' files in memory."""


class Adapter(msgspec.Struct, frozen=True, array_like=True):
    """Small matrices beside a checkpoint, in the file `path`, that make another model of it. One
    whose file was replaced is another one: `modified_ns` is Unix time."""

    name: str
    path: str
    bytes: int
    modified_ns: int


class Work(msgspec.Struct, frozen=True, array_like=True):
    """Continue `prompt` in `n` ways. Requests of different clients take turns, `weight` of one
    client's for each one of a client whose weight is 1. `echo`: tell the prompt first. Without an
    `adapter` it is the checkpoint itself that does it."""

    prompt: Prompt
    params: ResolvedParams
    n: int = 1
    client: str = ""
    weight: float = 1.0
    guidance: Guidance | None = None
    echo: bool = False
    adapter: Adapter | None = None


class Generate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int
    work: Work


class Encoding(msgspec.Struct, frozen=True, array_like=True):
    """Encode each of `inputs`, or score it as a document for `query`. `truncate`: cut what is too
    long, rather than refuse it. `dimensions`: keep so many of each vector's numbers, the first.
    Inputs of different clients take turns, as requests do elsewhere. `field` is what the request
    calls its inputs, for errors."""

    inputs: tuple[TextPrompt | TokensPrompt, ...]
    query: str | None = None
    truncate: bool = False
    dimensions: int | None = None
    client: str = ""
    weight: float = 1.0
    field: str = "input"


class Encode(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int
    work: Encoding


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    request: int


Job = ImportGguf | ConvertModel | FindExporter | ListRepository | FetchFiles
Command = Load | Generate | Encode | Cancel | Job


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


class Begun(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The first inputs of an encoding are being read."""

    request: int
    at: float


class Encoded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Input `index` had so many tokens, and this is what came of it: a vector, or one score, in
    little-endian float32. The request ends with the last of its inputs."""

    request: int
    index: int
    tokens: int
    values: bytes


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The request ended with an error of `errors.py`, by its code."""

    request: int
    code: str
    message: str
    param: str | None = None


Event = Queued | Started | Echo | Token | Finished | Begun | Encoded | Failed


class Events(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a step of the engine brought. `batch` sequences got a token, or so many inputs were
    encoded, together; the sequences that run have `kv_tokens` of the KV cache to themselves."""

    events: tuple[Event, ...]
    batch: int = 0
    kv_tokens: int = 0


Result = JobDone | Exporter | Repository | Fetched | JobFailed
Report = Hello | Ready | LoadFailed | Events | Progress | Result
