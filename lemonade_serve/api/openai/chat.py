"""A chat in the words of the house."""

from __future__ import annotations

import msgspec

from lemonade_serve import errors
from lemonade_serve.api.openai import requests
from lemonade_serve.api.tools import choose, tool_of
from lemonade_serve.domain.completion import ChatPrompt, Message, Tool, ToolCall, ToolChoice


def chat_prompt(data: requests.ChatRequest) -> ChatPrompt:
    """Raises InvalidRequest, naming the field."""
    tools, choice = _tools(data)
    kwargs = msgspec.json.encode(data.chat_template_kwargs or {}).decode()
    return ChatPrompt(_messages(data.messages), tools, choice, kwargs)


def _tools(data: requests.ChatRequest) -> tuple[tuple[Tool, ...], ToolChoice]:
    functions = [tool.function for tool in data.tools or ()]
    tools = [tool_of(one.name, one.description, one.parameters) for one in functions]
    parallel = data.parallel_tool_calls is not False
    choice = data.tool_choice
    if isinstance(choice, requests.NamedTool):
        return choose(tools, "required", names=[choice.function.name], parallel=False)
    if isinstance(choice, requests.AllowedTools):
        allowed = choice.allowed_tools
        names = [tool.function.name for tool in allowed.tools]
        return choose(tools, allowed.mode, names=names, parallel=parallel)
    return choose(tools, choice, parallel=parallel)


def _messages(messages: list[requests.ChatMessage]) -> tuple[Message, ...]:
    """A tool's answer is told by the name of the tool, too."""
    called: dict[str, str] = {}
    read = []
    for place, message in enumerate(messages):
        if isinstance(message, requests.AssistantTurn):
            calls = tuple(
                ToolCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
            )
            called |= {call.id: call.name for call in calls}
            if message.content is None and not calls:
                raise errors.InvalidRequest(
                    f"messages[{place}] has neither content nor tool_calls", param="messages"
                )
            text = _text(message.content or "")
            read.append(Message("assistant", text, message.name, tool_calls=calls))
        elif isinstance(message, requests.ToolMessage):
            id = message.tool_call_id
            name = message.name or called.get(id)
            read.append(Message("tool", _text(message.content), name, tool_call_id=id))
        else:
            role = type(message).__struct_config__.tag
            read.append(Message(str(role), _text(message.content), message.name))
    return tuple(read)


def _text(content: requests.Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
