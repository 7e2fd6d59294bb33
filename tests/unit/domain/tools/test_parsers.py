"""Calls of tools out of what models write."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lemonade_serve.domain.tools import CallPart, joined, parser_of

TOOLS = ("f", "g", "h", "k")
FORMATS = ("hermes", "llama3", "mistral", "mistral_args")
WEATHER = '{"city": "Paris", "days": [1, {"a": "}"}], "quote": "\\"]}"}'


def read(tool_format: str, pieces: Sequence[str]) -> tuple[str, tuple[CallPart, ...]]:
    """All content, and whole calls."""
    counter = itertools.count()
    parser = parser_of(tool_format, lambda: f"call_{next(counter)}", TOOLS)
    said = [one for piece in pieces for one in parser.push(piece)]
    said += parser.flush()
    content = "".join(one for one in said if isinstance(one, str))
    return content, joined([one for one in said if isinstance(one, CallPart)])


def calls(tool_format: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    content, parts = read(tool_format, [text])
    assert [part.index for part in parts] == [*range(len(parts))]
    assert [part.id for part in parts] == [f"call_{n}" for n in range(len(parts))]
    return content, [(part.name, part.arguments) for part in parts]


class TestHermes:
    def test_a_call_is_taken_out_with_the_space_around_it(self) -> None:
        text = (
            f'One moment. \n<tool_call>\n{{"name": "f", "arguments": {WEATHER}}}\n</tool_call>\nOk'
        )
        assert calls("hermes", text) == ("One moment.\nOk", [("f", WEATHER)])

    def test_there_may_be_several(self) -> None:
        text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n' * 3
        assert calls("hermes", text) == ("", [("f", "{}")] * 3)

    def test_closing_marks_may_be_missing(self) -> None:
        text = '<tool_call>{"name": "f", "arguments": {}}\n<tool_call>{"name": "g"}'
        assert calls("hermes", text) == ("", [("f", "{}"), ("g", "{}")])

    @pytest.mark.parametrize(
        "body",
        [
            '{"arguments": {"a": 1}, "name": "f"}',
            '{"id": 1, "name": "f", "arguments": {"a": 1}, "more": [null]}',
            '{"name": "f", "arguments": "{\\"a\\": 1}"}',
            '{ "name" : "f" , "parameters" : {"a": 1} }',
        ],
    )
    def test_a_call_is_written_in_many_ways(self, body: str) -> None:
        assert calls("hermes", f"<tool_call>{body}</tool_call>") == ("", [("f", '{"a": 1}')])

    def test_no_arguments_are_an_empty_object(self) -> None:
        assert calls("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>') == (
            "",
            [("f", "{}")],
        )

    @pytest.mark.parametrize(
        "text",
        [
            "<tool_call>",
            "a < b </tool_call>",
            "<tool_<tool_call",
            "<tool_call>nothing</tool_call>",
            "<tool_call>{}</tool_call>",
            '<tool_call>{"name": ""}</tool_call>',
            '<tool_call>{"name": "two words"}</tool_call>',
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
            '<tool_call>{"arguments": {"a": 1}}</tool_call>',
            '<tool_call>{"name": "f"',
            '<tool_call>{"name": "\\ud800"}',
            "  space  ",
        ],
    )
    def test_what_is_no_call_after_all_is_content(self, text: str) -> None:
        assert calls("hermes", text) == (text, [])

    def test_a_call_that_is_cut_keeps_what_there_is(self) -> None:
        text = '<tool_call>{"name": "f", "arguments": {"city": "Par'
        assert calls("hermes", text) == ("", [("f", '{"city": "Par')])

    def test_what_breaks_a_call_off_is_content(self) -> None:
        text = '<tool_call>{"name": "f", "arguments": {"a": [1}} and on'
        assert calls("hermes", text) == ("}} and on", [("f", '{"a": [1')])

    def test_a_quote_that_was_not_escaped_ends_with_its_call(self) -> None:
        broken = '{"q": "5" screen"}}\n'
        text = f'<tool_call>{{"name": "f", "arguments": {broken}</tool_call>\n'
        text += '<tool_call>{"name": "g", "arguments": {"a": "</b>"}}</tool_call>'
        assert calls("hermes", text) == ("", [("f", broken), ("g", '{"a": "</b>"}')])

    def test_after_what_was_none_there_may_be_a_call(self) -> None:
        text = '<tool_call>no <tool_call>{"name": "f", "arguments": {}}</tool_call>'
        assert calls("hermes", text) == ("<tool_call>no", [("f", "{}")])


class TestLlama3:
    def test_an_answer_may_be_a_call(self) -> None:
        text = f'\n{{"type": "function", "name": "f", "parameters": {WEATHER}}}'
        assert calls("llama3", text) == ("", [("f", WEATHER)])

    @pytest.mark.parametrize("between", ["; ", ";", "\n", ", ", ""])
    def test_there_may_be_several(self, between: str) -> None:
        text = between.join(['{"name": "f", "parameters": {}}'] * 2)
        assert calls("llama3", text) == ("", [("f", "{}")] * 2)

    def test_after_its_tag_a_call_may_come_at_any_time(self) -> None:
        text = 'So: <|python_tag|>{"name": "f", "parameters": {"a": 1}}'
        assert calls("llama3", text) == ("So:", [("f", '{"a": 1}')])

    @pytest.mark.parametrize(
        "text",
        [
            '<|python_tag|>search.call(query="x")',
            '{"answer": 42}',
            '{"name": "Ada", "age": 36}',
            '{"name": "Ada", "parameters": {"age": 36}}',  # nor is there a tool of this name
            'Use {"name": "f", "parameters": {}}',
            "<|begin|>",
        ],
    )
    def test_other_json_and_code_is_content(self, text: str) -> None:
        assert calls("llama3", text) == (text, [])

    def test_json_that_is_none_is_not_held_back(self) -> None:
        parser = parser_of("llama3", str)
        assert "".join(map(str, parser.push('{"answer": {"long": '))) == '{"answer": {"long":'

    def test_what_follows_calls_is_content(self) -> None:
        text = '{"name": "f", "parameters": {}}; is it?'
        assert calls("llama3", text) == ("; is it?", [("f", "{}")])


class TestMistral:
    def test_calls_are_a_list(self) -> None:
        one = f'{{"name": "f", "arguments": {WEATHER}}}'
        assert calls("mistral", f"Ok [TOOL_CALLS] [{one}, {one}]") == ("Ok", [("f", WEATHER)] * 2)
        assert calls("mistral", f"[TOOL_CALLS]{one}") == ("", [("f", WEATHER)])

    def test_newer_ones_stand_alone(self) -> None:
        text = f"[TOOL_CALLS]f[ARGS]{WEATHER}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{{}}[TOOL_CALLS]h{{}}"
        assert calls("mistral_args", text) == ("", [("f", WEATHER), ("g", "{}"), ("h", "{}")])

    @pytest.mark.parametrize(
        "text",
        [
            "[TOOL_CALLS] []",
            "[TOOL_CALLS] later",
            "[TOOL_CALLS]f[ARGUMENTS]{}",
            "[TOOL_CALLS]f[CALL_ID][x]",
            "[TOOL_CALLS]{}",
            "[1, 2] [TOOL_",
        ],
    )
    def test_what_is_no_call_after_all_is_content(self, text: str) -> None:
        assert calls("mistral", text) == (text, [])

    def test_a_list_that_is_cut_keeps_what_there_is(self) -> None:
        text = '[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a'
        assert calls("mistral", text) == ("", [("f", "{}"), ("g", '{"a')])


_MARKUP = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        '{"name": "f", "arguments": ',
        '{"name": "g", "parameters": ',
        '{"name": "h"',
        '{"arguments": {"a": "b"}, "name": "k"}',
        WEATHER,
        *'{}[]":,; \n\\<f🍋',
    ]
)
TEXTS = st.lists(_MARKUP | st.text(max_size=4), max_size=12).map("".join)


@pytest.mark.parametrize("tool_format", FORMATS)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=12))
@example(text=f'<tool_call>{{"name": "f", "arguments": {WEATHER}}}</tool_call>', cuts=[*range(99)])
def test_the_pieces_make_no_difference(tool_format: str, text: str, cuts: list[int]) -> None:
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(at)]
    assert read(tool_format, pieces) == read(tool_format, [text]) == read(tool_format, [*text])


@pytest.mark.parametrize("tool_format", FORMATS)
@given(text=TEXTS)
def test_without_a_call_nothing_is_lost(tool_format: str, text: str) -> None:
    content, found = read(tool_format, [text])
    if not found:
        assert content == text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.text(max_size=6), _JSON, max_size=4).map(json.dumps)


@given(arguments=st.lists(_OBJECTS, min_size=1, max_size=4), before=st.sampled_from(["", "Well:"]))
@pytest.mark.parametrize("tool_format", FORMATS)
def test_whatever_the_arguments_they_come_as_they_were_written(
    tool_format: str, arguments: list[str], before: str
) -> None:
    bodies = [f'{{"name": "f", "arguments": {one}}}' for one in arguments]
    written = {
        "hermes": "".join(f"<tool_call>{body}</tool_call>" for body in bodies),
        "llama3": f"<|python_tag|>{'; '.join(bodies)}",
        "mistral": f"[TOOL_CALLS] [{', '.join(bodies)}]",
        "mistral_args": "".join(f"[TOOL_CALLS]f[ARGS]{one}" for one in arguments),
    }[tool_format]
    assert calls(tool_format, before + written) == (before, [("f", one) for one in arguments])


def test_arguments_come_as_they_are_written() -> None:
    parser = parser_of("hermes", lambda: "id")
    assert parser.push('<tool_call>{"name": "f", "arg') == []
    assert parser.push('uments": {"ci') == [CallPart(0, "id", "f", '{"ci')]
    assert parser.push('ty": "P') == [CallPart(0, arguments='ty": "P')]
    assert parser.push('"}}</tool') == [CallPart(0, arguments='"}')]
    assert parser.push("_call>") == []
    assert parser.flush() == []


def test_a_format_that_nobody_can_read_is_an_error() -> None:
    with pytest.raises(KeyError):
        parser_of("morse", str)
