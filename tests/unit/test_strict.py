"""The suites' own judge of what a client of OpenAI would make of a body."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseStreamEvent

from tests.strict import strictly

MODEL = {"id": "m", "created": 1, "object": "model", "owned_by": "somebody"}
MESSAGE = {"role": "assistant", "content": "Hi", "refusal": None}
CHOICE = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": MESSAGE}
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}


def chat(**message: Any) -> dict[str, Any]:
    return {**CHAT, "choices": [{**CHOICE, "message": {**MESSAGE, **message}}]}


def test_what_fits_is_read() -> None:
    assert strictly(Model, MODEL).owned_by == "somebody"
    assert strictly(ChatCompletion, CHAT).choices[0].message.content == "Hi"


def test_an_unknown_field_is_found_at_any_depth() -> None:
    with pytest.raises(AssertionError, match=r"\$\.choices\[0\]\.message\.mood"):
        strictly(ChatCompletion, chat(mood="good"))


def test_a_field_of_another_type_is_found() -> None:
    with pytest.raises(AssertionError, match=r"\$\.choices\[0\]\.message\.content: 5"):
        strictly(ChatCompletion, chat(content=5))


def test_a_missing_field_is_found() -> None:
    with pytest.raises(AssertionError, match=r"\$\.created: missing"):
        strictly(Model, {name: value for name, value in MODEL.items() if name != "created"})


def test_one_name_may_be_let_through_at_the_top() -> None:
    assert strictly(ChatCompletion, {**CHAT, "timings": {}}, beyond=("timings",))
    with pytest.raises(AssertionError, match="timings"):
        strictly(ChatCompletion, chat(timings={}), beyond=("timings",))


def test_the_member_of_a_union_that_was_meant_is_named() -> None:
    event = {
        "type": "response.output_text.done",
        "content_index": 0,
        "item_id": "msg_1",
        "logprobs": [],
        "output_index": 0,
        "sequence_number": 1,
        "text": "Hi",
    }
    read: Any = strictly(ResponseStreamEvent, event)  # type: ignore[arg-type]
    assert read.text == "Hi"
    with pytest.raises(AssertionError, match=r"^\$\.more: ResponseTextDoneEvent has none$"):
        strictly(ResponseStreamEvent, {**event, "more": 1})  # type: ignore[arg-type]
