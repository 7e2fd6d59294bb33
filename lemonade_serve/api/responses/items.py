"""The items of a request's input: as a model gets them, and as they are listed afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType, structs

from lemonade_serve import errors
from lemonade_serve.api.responses import schemas
from lemonade_serve.api.responses.schemas import InputItem, InputText, SaidText
from lemonade_serve.domain.completion import Message, ToolCall

_FIELDS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}
"""What an item of each type has, all of it, and nothing of the others."""
_ALL = dict.fromkeys(field for fields in _FIELDS.values() for field in fields)
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


def read(given: str | Sequence[InputItem]) -> list[InputItem]:
    """A text is a message of the user's. Raises InvalidRequest for an item whose fields are not
    those of its type."""
    if isinstance(given, str):
        return [InputItem(role="user", content=given)]
    for number, item in enumerate(given):
        for field in _ALL:
            there, wanted = getattr(item, field) is not UNSET, field in _FIELDS[item.type]
            if there != wanted:
                what = "has no" if there else "needs"
                raise errors.InvalidRequest(
                    f"input[{number}]: a {item.type} {what} {field}",
                    param=f"input[{number}].{field}",
                )
    return list(given)


def converse(before: Sequence[Message], items: Iterable[InputItem]) -> list[Message]:
    """A conversation, and what is said then. Calls belong to the assistant's turn that they come
    in. Raises InvalidRequest for an output of a call that nobody made."""
    messages = [*before]
    called = {call.id: call.name for message in messages for call in message.tool_calls}
    for number, item in enumerate(items):
        if item.type == "message":
            messages.append(Message(str(item.role), _text(item.content)))
        elif item.type == "function_call":
            call = ToolCall(str(item.call_id), str(item.name), str(item.arguments))
            called[call.id] = call.name
            _add_call(messages, call)
        elif (id := str(item.call_id)) in called:
            messages.append(Message("tool", _text(item.output), called[id], tool_call_id=id))
        else:
            raise errors.InvalidRequest(
                f"input[{number}]: there is no function_call with this call_id before it",
                param=f"input[{number}].call_id",
            )
    return messages


def answered(messages: Sequence[Message], output: Iterable[schemas.OutputItem]) -> list[Message]:
    """The conversation, with its answer."""
    messages = [*messages, Message("assistant", "")]
    for item in output:
        if isinstance(item, schemas.FunctionCall):
            _add_call(messages, ToolCall(item.call_id, item.name, item.arguments))
        else:
            text = "".join(part.text for part in item.content)
            messages[-1] = structs.replace(messages[-1], content=messages[-1].content + text)
    return messages


def listed(items: Iterable[InputItem]) -> list[InputItem]:
    """With ids of our own, and texts as the parts that they are."""
    return [
        structs.replace(
            item,
            id=f"{_PREFIXES[item.type]}_{secrets.token_hex(24)}",
            status="completed",
            content=UNSET if item.content is UNSET else [_part(item, _text(item.content))],
        )
        for item in items
    ]


def _part(item: InputItem, text: str) -> InputText | SaidText:
    return SaidText(text=text) if item.role == "assistant" else InputText(text=text)


def _add_call(messages: list[Message], call: ToolCall) -> None:
    if not messages or messages[-1].role != "assistant":
        messages.append(Message("assistant", ""))
    messages[-1] = structs.replace(messages[-1], tool_calls=(*messages[-1].tool_calls, call))


def _text(content: str | Sequence[InputText | SaidText] | UnsetType) -> str:
    if isinstance(content, str | UnsetType):
        return content or ""
    return "".join(part.text for part in content)
