"""Calls of tools in what a model writes: a parser for each family of models, one Protocol."""

from lemonade_serve.domain.tools.calls import CallParser, CallPart, joined
from lemonade_serve.domain.tools.formats import parser_of

__all__ = ["CallParser", "CallPart", "joined", "parser_of"]
