"""Chats with tools, as templates get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ChatPrompt, Message, Tool, ToolCall
from lemonade_serve.worker.template import ChatTemplate
from tests.templates import FORMATS, HERMES, MISTRAL
from tests.unit.worker.conftest import MakeVocabulary

WEATHER = Tool("weather", "Of a city.", '{"type": "object", "properties": {"city": {}}}')
CALL = ToolCall("call_0123456789abcdef01234567", "weather", '{"city": "Zürich"}')
TALK = (
    Message("user", "Weather?"),
    Message("assistant", "", tool_calls=(CALL, CALL)),
    Message("tool", "12", "weather", tool_call_id=CALL.id),
    Message("tool", "13", "weather", tool_call_id=CALL.id),
)
PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"


def template(source: str, **named: str) -> ChatTemplate:
    return ChatTemplate(source, {}, **named)


def no_tokens(_: str) -> bool:
    return False


def render(source: str, prompt: ChatPrompt, **named: str) -> str:
    made = template(source, **named)
    return made.render(prompt, made.tool_format(no_tokens))


class TestATemplateThatKnowsTools:
    def test_gets_tools_as_clients_write_them(self) -> None:
        source = "{{ tools | tojson }}"
        assert json.loads(render(source, ChatPrompt(TALK, (WEATHER, Tool("now"))))) == [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Of a city.",
                    "parameters": {"type": "object", "properties": {"city": {}}},
                },
            },
            {
                "type": "function",
                "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
            },
        ]
        assert render(source, ChatPrompt(TALK)) == "null"

    def test_gets_arguments_as_an_object(self) -> None:
        source = "{{ messages | tojson }}{{ tools }}"
        prompt = ChatPrompt(TALK[:3])
        turns: list[dict[str, Any]] = json.loads(render(source, prompt).removesuffix("None"))
        function = {"name": "weather", "arguments": {"city": "Zürich"}}
        call = {"id": CALL.id, "type": "function", "function": function}
        assert turns == [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "12", "name": "weather", "tool_call_id": CALL.id},
        ]

    def test_gets_arguments_as_they_are_where_they_are_no_json(self) -> None:
        source = "{{ messages[0].tool_calls[0].function.arguments }}{% set x = tools %}"
        message = Message("assistant", "", tool_calls=(ToolCall("1", "f", '{"cut'),))
        assert render(source, ChatPrompt((message,))) == '{"cut'

    def test_is_taken_for_chats_with_tools_where_it_is_one_of_several(self) -> None:
        named = {"tool_source": "tools: {{ tools | length }}"}
        assert render(PLAIN, ChatPrompt(TALK[:1], (WEATHER,)), **named) == "tools: 1"
        assert render(PLAIN, ChatPrompt(TALK[:1]), **named) == "<user>Weather?\n"

    def test_may_want_short_ids(self) -> None:
        text = render(MISTRAL, ChatPrompt(TALK[:3], (WEATHER,)))
        (id,) = {part.split('"')[0] for part in text.split('id": "')[1:]}
        assert len(id) == 9


class TestATemplateThatKnowsNone:
    def test_is_told_of_them_in_the_system_turn(self) -> None:
        text = render(PLAIN, ChatPrompt((Message("system", "Be brief."), TALK[0]), (WEATHER,)))
        assert text.startswith("<system>Be brief.\n\n# Tools")
        assert '\n{"type": "function", "function": {"name": "weather", ' in text
        assert '<tool_call>\n{"name": <function-name>, "arguments": <args' in text
        assert text.endswith("<user>Weather?\n")
        assert render(PLAIN, ChatPrompt(TALK[:1], (WEATHER,))).startswith("<system># Tools")

    def test_gets_calls_and_answers_as_texts(self) -> None:
        call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
        answers = "\n".join(f"<tool_response>\n{n}\n</tool_response>" for n in (12, 13))
        assert render(PLAIN, ChatPrompt(TALK)) == (
            f"<user>Weather?\n<assistant>{call}\n{call}\n<user>{answers}\n"
        )


class TestWhatAClientSays:
    def test_is_passed_on(self) -> None:
        kwargs = '{"enable_thinking": false, "documents": [1]}'
        source = "{{ enable_thinking }} {{ documents }}"
        assert render(source, ChatPrompt(TALK[:1], template_kwargs=kwargs)) == "False [1]"

    @pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
    def test_replaces_nothing_of_the_chat(self, name: str) -> None:
        kwargs = json.dumps({name: []})
        with pytest.raises(errors.InvalidRequest, match=name) as raised:
            render(PLAIN, ChatPrompt(TALK[:1], template_kwargs=kwargs))
        assert raised.value.param == "chat_template_kwargs"


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    prompt = ChatPrompt((Message("developer", "x"),))
    assert render(PLAIN, prompt) == "<system>x\n"
    assert render(PLAIN + "{# developer #}", prompt) == "<developer>x\n"


class TestTheFormatOfCalls:
    @pytest.mark.parametrize("name", FORMATS)
    def test_is_read_from_the_template(self, name: str) -> None:
        assert template(FORMATS[name]).tool_format(no_tokens) == name

    @pytest.mark.parametrize(
        ("mark", "name"),
        [("[TOOL_CALLS]", "mistral"), ("<|python_tag|>", "llama3"), ("x", "hermes")],
    )
    def test_or_from_the_vocabulary(self, mark: str, name: str) -> None:
        assert template("{{ tools }}").tool_format(mark.__eq__) == name

    def test_is_our_own_where_the_template_knows_no_tools(self) -> None:
        assert template(PLAIN).tool_format(lambda _: True) == "hermes"

    def test_is_that_of_the_template_for_tools(self) -> None:
        assert template(PLAIN, tool_source=MISTRAL).tool_format(no_tokens) == "mistral"


def test_named_templates_are_found_in_files_too(
    make_vocabulary: MakeVocabulary, tmp_path: Path
) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(
        "with {{ tools[0].type }}"
    )
    vocabulary = make_vocabulary(template="without")
    assert vocabulary.render(ChatPrompt(TALK, (WEATHER,))) == "with function"
    assert vocabulary.render(ChatPrompt(TALK)) == "without"


def test_a_tool_template_of_the_configuration_is_found(make_vocabulary: MakeVocabulary) -> None:
    named = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": HERMES}]
    vocabulary = make_vocabulary(config={"chat_template": named})
    assert "<tool_response>\n12" in vocabulary.render(ChatPrompt(TALK, (WEATHER,)))
