"""The Responses API's bodies, as far as they are honoured here; any other field is refused by
name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from lemonade_serve.api.guidance import JsonObject, Schema, Text
from lemonade_serve.api.openai.answers import DrawnToken
from lemonade_serve.api.openai.requests import Function, Sampled
from lemonade_serve.domain.completion import RequestOptions
from lemonade_serve.settings.parameters import MaxLength

LOGPROBS: Literal["message.output_text.logprobs"] = "message.output_text.logprobs"

Role = Literal["user", "assistant", "system", "developer"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]


PageSize = Annotated[int, Meta(ge=1, le=100)]
Order = Literal["asc", "desc"]


class InputText(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="input_text",
):
    text: str


class SaidText(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="output_text",
):
    """What an answer said before. Only the text counts."""

    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[dict[str, Any]] | UnsetType | None = UNSET
    parsed: Any | UnsetType = UNSET


Parts = Annotated[list[InputText | SaidText], Meta(min_length=1)]


class InputItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message has a `role` and a `content`, a function call `call_id`, `name` and `arguments`,
    and what came of it `call_id` and `output`. `id`, `status` and what the openai package parsed
    have no effect."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    id: str | UnsetType | None = UNSET
    status: ItemStatus | UnsetType | None = UNSET
    role: Role | UnsetType = UNSET
    content: str | Parts | UnsetType = UNSET
    call_id: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    name: FunctionName | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    parsed_arguments: Any | UnsetType = UNSET
    output: str | list[InputText] | UnsetType = UNSET


class JsonSchemaFormat(
    Schema,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="json_schema",
):
    """JSON that validates."""

    schema: dict[str, Any]


class TextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Text | JsonObject | JsonSchemaFormat = Text()


class ResponseTool(
    Function,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="function",
):
    """A function of the caller's."""


class NamedFunction(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="function",
):
    """This one."""

    name: FunctionName


class AllowedFunctions(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag="allowed_tools",
):
    """Some of them."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1)]


Choice = Literal["none", "auto", "required"] | NamedFunction | AllowedFunctions


class ResponseRequest(Sampled, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes before `input` is kept on the server, by `previous_response_id`, if the response
    that is meant was not made with `store: false`."""

    input: Annotated[str, Meta(min_length=1)] | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: MaxLength | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=128)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def options(self) -> RequestOptions:
        likely = (self.top_logprobs or 0) if self.logprobs else None
        return self._options(self.max_output_tokens, likely)


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[DrawnToken] = []


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FunctionCall(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    """`arguments` is JSON text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | FunctionCall


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: Literal[0] = 0
    """Tokens that somebody pays for keeping: there are none."""


class OutputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    reasoning_tokens: Literal[0] = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True, kw_only=True):
    """`code` is the nearest of OpenAI's words; the `error` event after it has ours."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True, kw_only=True):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, with what was asked for. Times are Unix seconds."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    instructions: str | None
    previous_response_id: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_logprobs: int | None
    text: TextConfig
    tools: list[ResponseTool]
    tool_choice: Choice
    parallel_tool_calls: bool
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    service_tier: Literal["default"] = "default"
    truncation: Literal["disabled"] = "disabled"
    background: Literal[False] = False


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[InputItem]
    first_id: str
    last_id: str
    has_more: bool
