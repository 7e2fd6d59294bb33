"""OpenAI's answers: but for `timings`, and what is said of a model, no field is in them that OpenAI
does not know."""

from __future__ import annotations

from typing import Literal

import msgspec

from lemonade_serve.api.openai.requests import Call
from lemonade_serve.api.openai.timings import Timings


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TextLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """One entry for each token. `top_logprobs` have the token itself and the most likely ones,
    `text_offset` where in the text it begins, in characters. A prompt's first token has neither
    a logprob nor likely ones."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A text completion, or a piece of one while it streams."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`content` is null where there are only calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[Call] | msgspec.UnsetType = msgspec.UNSET


class LikelyToken(msgspec.Struct, frozen=True, kw_only=True):
    """`bytes` are the token's; what of them is no UTF-8 has escapes in `token`."""

    token: str
    logprob: float
    bytes: list[int]


class DrawnToken(LikelyToken, frozen=True, kw_only=True):
    """With the most likely ones in its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    content: list[DrawnToken]
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """`id`, `type` and the name come once, first."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function"] | msgspec.UnsetType = msgspec.UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[CallDelta] | msgspec.UnsetType = msgspec.UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """`root` is the checkpoint's name, and so is the `parent` of what is an adapter; `adapters` are
    those of a checkpoint; `capabilities` are `completion`, `chat`, `tools`, `embedding`, `rerank`,
    `adapters`; `device` is where it is in memory, or would be; `size` its bytes on disk; `revision`
    the commit that it was pulled at. OpenAI knows the first four fields."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lemonade-serve"
    root: str
    parent: str | None
    adapters: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_length: int
    dtype: str
    device: str
    size: int
    revision: str | None


class Models(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]
