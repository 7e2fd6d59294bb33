"""What an answer has to be so that it calls tools, as a grammar."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ChatPrompt, Guidance, Tool, ToolChoice, Work
from lemonade_serve.worker.guidance import JSON_OPTIONS
from lemonade_serve.worker.schemas import check_schema
from lemonade_serve.worker.vocabulary import Vocabulary

MOST_CALLS = 8
"""Of one answer that has to have calls: small models find no end by themselves."""

_JSON = {**JSON_OPTIONS, "item_separator": ", ", "key_separator": ": "}
"""As templates write it, with Python's json."""


_NONE: dict[str, Any] = {"properties": {}, "additionalProperties": False}


def guided(work: Work, vocabulary: Vocabulary) -> Work:
    """With what its tools make of its guidance."""
    prompt = work.prompt
    if not isinstance(prompt, ChatPrompt) or not prompt.tools:
        return work
    guidance = guidance_of(
        prompt.tools,
        prompt.choice,
        vocabulary.tool_format(prompt),
        vocabulary.special,
        work.guidance,
    )
    return msgspec.structs.replace(work, guidance=guidance)


def guidance_of(
    tools: Sequence[Tool],
    choice: ToolChoice,
    tool_format: str,
    special: Callable[[str], int | None],
    answer: Guidance | None,
) -> Guidance | None:
    """None, where anything may be said. `special` gives the token of a mark that is a special one;
    `answer` is what a text has to be instead of calls, where there need not be any.

    Raises InvalidRequest for parameters that say how they are to be enforced, and for an answer
    that can only be text.
    """
    if not tools or not (choice.required or answer):
        return answer
    rules = _rules(tools, choice, tool_format, special)
    if choice.required or answer is None:
        start = "start: calls"
    elif answer.kind == "json_schema":
        start = "start: calls | answer"
        form = "response_format"
        rules.append(f"answer: %json {_guided(json.loads(answer.grammar), form, field=form)}")
    else:
        raise errors.InvalidRequest(
            "an answer may be JSON or calls of tools; one with a regex or a grammar has no tools",
            param="tools",
        )
    return Guidance("lark", "\n".join([start, *rules]), "tools")


def _rules(
    tools: Sequence[Tool],
    choice: ToolChoice,
    tool_format: str,
    special: Callable[[str], int | None],
) -> list[str]:
    def mark(text: str) -> str:
        token = special(text)
        return json.dumps(text) if token is None else f"<[{token}]>"

    key = "parameters" if tool_format == "llama3" else "arguments"
    match tool_format:
        case "llama3":
            calls = _series("call", "; ", choice)
        case "mistral":
            calls = f'{mark("[TOOL_CALLS]")} " "? "[" {_series("call", ", ", choice)} "]"'
        case "mistral_args":
            calls = _series("call", "", choice)
        case _:
            begin, end = mark("<tool_call>"), mark("</tool_call>")
            calls = _series(f'{begin} "\\n" call "\\n" {end}', "\n", choice)
    rules = [f"calls: {calls}", "call: " + " | ".join(f"call_{n}" for n in range(len(tools)))]
    for n, tool in enumerate(tools):
        if tool_format == "mistral_args":
            head = f"{mark('[TOOL_CALLS]')} {json.dumps(tool.name)} {mark('[ARGS]')}"
            rules.append(f"call_{n}: {head} arguments_{n}")
        else:
            head = json.dumps(f'{{"name": "{tool.name}", "{key}": ')
            rules.append(f'call_{n}: {head} arguments_{n} "}}"')
        parameters = _NONE if tool.parameters is None else json.loads(tool.parameters)
        schema = _guided({"type": "object", **parameters}, f"the parameters of {tool.name}")
        rules.append(f"arguments_{n}: %json {schema}")
    return rules


def _series(one: str, between: str, choice: ToolChoice) -> str:
    more = f"({json.dumps(between)} {one}){{0,{MOST_CALLS - 1}}}"
    return f"{one} {more}" if choice.parallel else one


def _guided(schema: dict[str, Any], what: str, *, field: str = "tools") -> str:
    try:
        check_schema(schema)
    except ValueError as error:
        raise errors.InvalidRequest(f"{what} cannot be enforced: {error}", param=field) from error
    return json.dumps({**schema, "x-guidance": _JSON})
