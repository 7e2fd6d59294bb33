"""Calls of tools in what a model writes: a parser for each family of models, one Protocol."""

from lemonade_serve.domain.tools.calls import CallParser, CallPart, parser_of

__all__ = ["CallParser", "CallPart", "parser_of"]
