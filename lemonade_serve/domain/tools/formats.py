"""The ways in which models write calls of tools, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection

from lemonade_serve.domain.tools.calls import CallParser
from lemonade_serve.domain.tools.hermes import HermesParser
from lemonade_serve.domain.tools.llama3 import Llama3Parser
from lemonade_serve.domain.tools.mistral import MistralParser
from lemonade_serve.domain.tools.reader import Reader


def parser_of(
    tool_format: str, new_id: Callable[[], str], names: Collection[str] = ()
) -> CallParser:
    """For models that write calls in this format (`Started.tool_format`), of tools with these
    names. Raises KeyError for a format that nobody here can read."""
    return _PARSERS[tool_format](new_id, names)


_PARSERS: dict[str, type[Reader]] = {
    "hermes": HermesParser,
    "llama3": Llama3Parser,
    "mistral": MistralParser,
    "mistral_args": MistralParser,
}
