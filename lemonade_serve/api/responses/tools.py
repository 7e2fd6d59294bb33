"""The functions that a request brings, and whether they have to be called."""

from __future__ import annotations

from lemonade_serve.api.responses.schemas import ResponseRequest
from lemonade_serve.domain.completion import Tool, ToolChoice


def chosen(data: ResponseRequest) -> tuple[tuple[Tool, ...], ToolChoice]:
    """What the model gets to see of them."""
    parallel = data.parallel_tool_calls is not False
    return (), ToolChoice(required=False, parallel=parallel)
