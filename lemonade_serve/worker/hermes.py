"""Tools in words, for models whose template knows none: as Hermes has them, which many models have
seen. Source: Hermes 2 Pro's prompt format, in the wording of Qwen 2.5's template."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from lemonade_serve.protocol.messages import Message, Tool
from lemonade_serve.worker.functions import arguments_of, described

_INSTRUCTION = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def spelt_out(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same chat with nothing in it but texts: the tools stand in its system turn."""
    told: list[Message] = []
    answered = False
    for message in messages:
        if message.role == "tool":
            text = f"<tool_response>\n{message.content}\n</tool_response>"
            if answered:  # several answers are one turn
                text = f"{told.pop().content}\n{text}"
            told.append(Message("user", text))
        else:
            told.append(_assistant(message) if message.tool_calls else message)
        answered = message.role == "tool"
    return _instructed(told, tools) if tools else told


def _assistant(message: Message) -> Message:
    calls = [
        f"<tool_call>\n{_json({'name': call.name, 'arguments': arguments_of(call)})}\n</tool_call>"
        for call in message.tool_calls
    ]
    return Message("assistant", "\n".join(filter(None, [message.content, *calls])))


def _instructed(messages: list[Message], tools: Sequence[Tool]) -> list[Message]:
    listed = "\n".join(_json(described(tool)) for tool in tools)
    instruction = _INSTRUCTION.format(tools=listed)
    if messages and messages[0].role in ("system", "developer"):
        first, *rest = messages
        both = f"{first.content}\n\n{instruction}"
        return [msgspec.structs.replace(first, content=both), *rest]
    return [Message("system", instruction), *messages]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
