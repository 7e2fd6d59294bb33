"""What a streamed response consists of. The `type` of an event is its name too."""

from __future__ import annotations

from typing import Literal

import msgspec

from lemonade_serve.api.errors import ErrorDetail
from lemonade_serve.api.responses.schemas import OutputItem, OutputText, Response


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """`sequence_number` counts the events of a stream; it is set when they are written."""

    type: str
    sequence_number: int = 0


class ResponseEvent(Event, frozen=True, kw_only=True):
    """It began, or ended."""

    response: Response


class ItemEvent(Event, frozen=True, kw_only=True):
    """An item is added, or done."""

    output_index: int
    item: OutputItem


class PartEvent(Event, frozen=True, kw_only=True):
    """The text of a message is added, or done."""

    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    part: OutputText


class StreamedLikely(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    logprob: float


class StreamedToken(StreamedLikely, frozen=True, kw_only=True):
    """As in the whole text, less the bytes: OpenAI's events have none."""

    top_logprobs: list[StreamedLikely]


class TextDelta(Event, frozen=True, kw_only=True):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    delta: str
    logprobs: list[StreamedToken]


class TextDone(Event, frozen=True, kw_only=True):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    item_id: str
    output_index: int
    content_index: Literal[0] = 0
    text: str
    logprobs: list[StreamedToken]


class ArgumentsDelta(Event, frozen=True, kw_only=True):
    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event, frozen=True, kw_only=True):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    item_id: str
    output_index: int
    arguments: str


class ErrorEvent(Event, frozen=True, kw_only=True):
    """What ended a stream. OpenAI documents `code`, `message` and `param`; its clients raise what
    they find in `error`."""

    type: Literal["error"] = "error"
    code: str
    message: str
    param: str | None
    error: ErrorDetail
