"""The functions that a request brings, and whether they have to be called."""

from __future__ import annotations

from lemonade_serve.api.responses.schemas import AllowedFunctions, NamedFunction, ResponseRequest
from lemonade_serve.api.tools import choose, tool_of
from lemonade_serve.domain.completion import Tool, ToolChoice


def chosen(data: ResponseRequest) -> tuple[tuple[Tool, ...], ToolChoice]:
    """What the model is shown. Raises InvalidRequest, naming the field."""
    tools = [tool_of(one.name, one.description, one.parameters) for one in data.tools or ()]
    choice, parallel = data.tool_choice, data.parallel_tool_calls is not False
    if isinstance(choice, NamedFunction):
        return choose(tools, "required", names=[choice.name], parallel=False)
    if isinstance(choice, AllowedFunctions):
        names = [tool.name for tool in choice.tools]
        return choose(tools, choice.mode, names=names, parallel=parallel)
    return choose(tools, choice, parallel=parallel)
