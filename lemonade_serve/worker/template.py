"""A checkpoint's chat template: how it was trained to read a chat, and the tools of one."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ChatPrompt, Message, Tool, ToolCall
from lemonade_serve.worker import hermes
from lemonade_serve.worker.functions import arguments_of, described

MARKS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
    "mistral_args": ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
}
"""What a format of calls is told by; some vocabularies have control tokens for it."""

_OURS = ("messages", "tools", "add_generation_prompt")
_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")

Turn = dict[str, Any]


class ChatTemplate:
    """Renders chats as Hugging Face does. With a `tool_template`, chats with tools take that one.

    Raises ModelLoadError for a source that is no template.
    """

    def __init__(
        self, source: str, special: Mapping[str, str], *, tool_source: str | None = None
    ) -> None:
        self._plain = _Source(source, special)
        self._with_tools = self._plain if tool_source is None else _Source(tool_source, special)

    @classmethod
    def read(cls, directory: Path, config: Mapping[str, Any]) -> Self | None:
        """That of a checkpoint with this `tokenizer_config.json`; None, if it has none.
        Source: transformers' chat_template_utils."""
        named = _sources(directory, config)
        if not (default := named.get("default")):
            return None
        special = {
            key: value["content"] if isinstance(value, dict) else value
            for key, value in config.items()
            if key.endswith("_token") and isinstance(value, str | dict)
        }
        try:
            return cls(default, special, tool_source=named.get("tool_use"))
        except jinja2.TemplateSyntaxError as error:
            raise errors.ModelLoadError(f"the chat template in {directory}: {error}") from error

    def tool_format(self, is_token: Callable[[str], bool]) -> str:
        """How the model writes calls of tools: a format of domain/tools. `is_token` tells whether
        a mark is one token of the vocabulary."""
        return self._with_tools.tool_format(is_token)

    def render(self, prompt: ChatPrompt, tool_format: str) -> str:
        """The chat, open for the assistant's turn. Raises InvalidRequest for one that the template
        refuses, and for `chat_template_kwargs` that would replace the chat."""
        kwargs = msgspec.json.decode(prompt.template_kwargs, type=dict[str, Any])
        if taken := [name for name in _OURS if name in kwargs]:
            raise errors.InvalidRequest(
                f"{taken[0]} is not for chat_template_kwargs to say", param="chat_template_kwargs"
            )
        source = self._with_tools if prompt.tools else self._plain
        messages: Sequence[Message] = prompt.messages
        tools: Sequence[Tool] = prompt.tools
        if not source.knows_tools:
            messages, tools = hermes.spelt_out(messages, tools), ()
        turns = [_turn(message, source, tool_format) for message in messages]
        try:
            return source.template.render(
                {"documents": None, **kwargs},
                messages=turns,
                add_generation_prompt=True,
                tools=[described(tool) for tool in tools] or None,
            )
        except _Refusal as error:
            raise errors.InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        except Exception as error:  # a stranger's code may fail as it likes, with the prompt in it
            raise errors.InvalidRequest(
                f"the model's chat template fails on these messages: {type(error).__name__}",
                param="messages",
            ) from None


class _Source:
    """One template, and what its text tells of it."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        environment = _environment()
        self.template = environment.from_string(source, globals=dict(special))
        names = jinja2.meta.find_undeclared_variables(environment.parse(source))
        self.knows_tools = "tools" in names
        self.knows_developers = "developer" in source
        self._source = source

    def tool_format(self, is_token: Callable[[str], bool]) -> str:
        if not self.knows_tools or "<tool_call>" in self._source:
            return "hermes"
        if "[TOOL_CALLS]" in self._source or is_token("[TOOL_CALLS]"):
            return "mistral_args" if "[ARGS]" in self._source else "mistral"
        if "<|python_tag|>" in self._source or is_token("<|python_tag|>"):
            return "llama3"
        return "llama3" if _LLAMA3.search(self._source) else "hermes"


_LLAMA3 = re.compile(r"""["']name["']\s*:[^{}]*["']parameters["']\s*:""")
"""`{"name": function name, "parameters": …}`, as Llama 3's instruction has it."""


def _turn(message: Message, source: _Source, tool_format: str) -> Turn:
    turn: Turn = {"role": message.role, "content": message.content}
    if message.role == "developer" and not source.knows_developers:
        turn["role"] = "system"
    if message.name is not None:
        turn["name"] = message.name
    shorten = _mistral_id if tool_format.startswith("mistral") else str
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, shorten(call.id)) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = shorten(message.tool_call_id)
    return turn


def _call(call: ToolCall, id: str) -> Turn:
    function = {"name": call.name, "arguments": arguments_of(call)}
    return {"id": id, "type": "function", "function": function}


def _mistral_id(id: str) -> str:
    """Mistral's templates refuse ids that are not nine letters and digits."""
    return id if _MISTRAL_ID.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


def _sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name."""
    separate = directory / "chat_template.jinja"
    said = separate.read_text() if separate.exists() else config.get("chat_template")
    named = said if isinstance(said, list) else [{"name": "default", "template": said}]
    sources = {one.get("name"): one.get("template") for one in named}
    for path in (directory / "additional_chat_templates").glob("*.jinja"):
        sources.setdefault(path.stem, path.read_text())
    return {str(name): source for name, source in sources.items() if source}


def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)  # noqa: DTZ005, the user's own clock
    return environment


def _to_json(value: object, ensure_ascii: bool = False, **how: Any) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks for trainers what the assistant said."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Refusal(Exception):
    """What a template says on purpose."""


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(message)
