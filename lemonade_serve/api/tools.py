"""Which tools a model is shown, and whether it has to call one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Literal

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.completion import Tool, ToolChoice

Mode = Literal["none", "auto", "required"]


def tool_of(name: str, description: str | None, parameters: dict[str, Any] | None) -> Tool:
    """Raises InvalidRequest if its `parameters` are not those of an object."""
    if parameters is None:
        return Tool(name, description)
    if parameters.get("type", "object") != "object":
        raise errors.InvalidRequest(
            f"the parameters of {name} are the schema of an object", param="tools"
        )
    return Tool(name, description, msgspec.json.encode(parameters).decode())


def choose(
    tools: Sequence[Tool],
    mode: Mode | None,
    *,
    names: Collection[str] | None = None,
    parallel: bool = True,
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """What the model is shown: of the tools those with the `names`, if there are some, and with
    `none`, none. Raises InvalidRequest if a choice is not there, or two tools share a name."""
    counted = Counter(tool.name for tool in tools)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise errors.InvalidRequest(f"two tools are called {twice[0]}", param="tools")
    if not tools and (names is not None or mode == "required"):
        raise errors.InvalidRequest("there are no tools to choose from", param="tool_choice")
    if unknown := [name for name in names or () if name not in counted]:
        raise errors.InvalidRequest(f"there is no tool {unknown[0]}", param="tool_choice")
    if mode == "none":
        return (), ToolChoice()
    shown = tuple(tool for tool in tools if names is None or tool.name in names)
    return shown, ToolChoice(required=mode == "required", parallel=parallel)
