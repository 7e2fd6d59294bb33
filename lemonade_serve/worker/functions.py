"""Tools and calls of them as clients write them, and chat templates expect them."""

from __future__ import annotations

import json
from typing import Any

from lemonade_serve.protocol.messages import Tool, ToolCall


def described(tool: Tool) -> dict[str, Any]:
    """As clients write it, and templates expect it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    function["parameters"] = empty if tool.parameters is None else json.loads(tool.parameters)
    return {"type": "function", "function": function}


def arguments_of(call: ToolCall) -> object:
    """An object, as templates expect it; what is no JSON, as it is."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
