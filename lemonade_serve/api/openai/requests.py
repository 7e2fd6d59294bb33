"""OpenAI's requests, as far as they are honoured here; any other field is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lemonade_serve import errors
from lemonade_serve.api.guidance import JsonObject, Schema, Text
from lemonade_serve.api.keep_alive import KeepAlive
from lemonade_serve.settings.parameters import (
    LogitBias,
    MaxLength,
    MinLength,
    MinP,
    Penalty,
    RepetitionPenalty,
    RequestOptions,
    Seed,
    Sequences,
    Stop,
    Temperature,
    TopK,
    TopP,
)


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool = False


class JsonSchema(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="json_schema",
):
    """JSON that validates."""

    json_schema: Schema


ResponseFormat = Text | JsonObject | JsonSchema


class Sampled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all routes that generate share. The last group is accepted and has no effect."""

    model: str | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None

    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    min_tokens: MinLength | None = None
    ignore_eos: bool | None = None
    keep_alive: KeepAlive | None = None

    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def _options(self, max_tokens: int | None, logprobs: int | None) -> RequestOptions:
        return RequestOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            min_length=self.min_tokens,
            max_length=max_tokens,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop=self.stop,
            ignore_eos=self.ignore_eos,
            logit_bias=self.logit_bias,
            logprobs=logprobs,
        )


class Request(Sampled, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chat and plain completions share besides. The last two have no effect."""

    stream_options: StreamOptions | None = None
    max_tokens: MaxLength | None = None
    n: Sequences | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    grammar: str | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None


class CompletionRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`prompt`: a string, token ids, or a list of such. With `echo` it comes first in the text, and
    `max_tokens` may be 0. `suffix`: what shall come after the text."""

    prompt: str | list[Any]
    suffix: str | None = None
    echo: bool | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    def options(self) -> RequestOptions:
        """Raises InvalidRequest where nothing is wanted."""
        options = self._options(self.max_tokens, self.logprobs)
        if self.max_tokens != 0:
            return options
        if not self.echo:
            raise errors.InvalidRequest(
                "max_tokens is at least 1, but for the echo of a prompt", param="max_tokens"
            )
        return msgspec.structs.replace(options, min_length=self.min_tokens or 0)


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role"
):
    name: str | None = None


class SystemMessage(_Message, frozen=True, kw_only=True, tag="system"):
    content: Content


class DeveloperMessage(_Message, frozen=True, kw_only=True, tag="developer"):
    content: Content


class UserMessage(_Message, frozen=True, kw_only=True, tag="user"):
    content: Content


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`arguments` are JSON, as text. What the openai package parsed of them has no effect."""

    name: str
    arguments: str
    parsed_arguments: Any | msgspec.UnsetType = msgspec.UNSET


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantTurn(_Message, frozen=True, kw_only=True, tag="assistant"):
    """What a model said, as an answer has it, or as the openai package hands it back; only one with
    calls may say nothing else."""

    content: Content | None = None
    tool_calls: list[Call] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None
    parsed: Any = None


class ToolMessage(_Message, frozen=True, kw_only=True, tag="tool"):
    content: Content
    tool_call_id: str


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantTurn | ToolMessage


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`parameters` is a JSON Schema. Calls that have to be made follow it, `strict` or not."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


class NamedTool(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="function",
):
    """This one."""

    function: FunctionName


class AllowedNames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class AllowedTools(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="allowed_tools",
):
    """Some of them."""

    allowed_tools: AllowedNames


class ChatRequest(Request, frozen=True, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: MaxLength | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def options(self) -> RequestOptions:
        """`max_tokens` is the old name; where both are there, the new one counts."""
        likely = (self.top_logprobs or 0) if self.logprobs else None
        return self._options(self.max_completion_tokens or self.max_tokens, likely)
