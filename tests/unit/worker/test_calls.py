"""Answers that have to call a tool, by llguidance itself."""

from __future__ import annotations

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from lemonade_serve import errors
from lemonade_serve.protocol.messages import (
    ChatPrompt,
    Guidance,
    Message,
    ResolvedParams,
    Tool,
    ToolChoice,
    Work,
)
from lemonade_serve.worker.calls import MOST_CALLS, guidance_of, guided
from tests.templates import FORMATS
from tests.unit.worker.conftest import MakeVocabulary
from tests.unit.worker.vocabularies import byte_level, eos_of

CITY = Tool(
    "get.city-1",
    parameters='{"properties": {"city": {"enum": ["Oslo", "\\"}"]}}, "required": ["city"],'
    ' "additionalProperties": false}',
)
TOOLS = (CITY, Tool("now"))
REQUIRED, ONE = ToolChoice(required=True), ToolChoice(required=True, parallel=False)
OSLO = '{"city": "Oslo"}'
WRITTEN = {
    "hermes": lambda name, given: (
        f'<tool_call>\n{{"name": "{name}", "arguments": {given}}}\n</tool_call>'
    ),
    "llama3": lambda name, given: f'{{"name": "{name}", "parameters": {given}}}',
    "mistral": lambda name, given: f'{{"name": "{name}", "arguments": {given}}}',
    "mistral_args": lambda name, given: f"[TOOL_CALLS]{name}[ARGS]{given}",
}
BETWEEN = {"hermes": "\n", "llama3": "; ", "mistral": ", ", "mistral_args": ""}
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")


def written(tool_format: str, *calls: tuple[str, str]) -> str:
    text = BETWEEN[tool_format].join(WRITTEN[tool_format](*call) for call in calls)
    return f"[TOOL_CALLS] [{text}]" if tool_format == "mistral" else text


def tokenizer_with_marks() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    return tokenizer


class Grammar:
    """Whether texts keep to what `guidance_of` says."""

    def __init__(self, guidance: Guidance | None, tokenizer: Tokenizer) -> None:
        assert guidance is not None
        assert guidance.kind == "lark"
        self._hf = tokenizer
        self._tokenizer = LLTokenizer(tokenizer.to_str(), eos_token=[eos_of(tokenizer)])
        self._grammar = LLMatcher.grammar_from_lark(guidance.grammar)

    def takes(self, text: str) -> bool:
        matcher = LLMatcher(self._tokenizer, self._grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        tokens = self._hf.encode(text).ids
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("tool_format", FORMATS)
def test_an_answer_is_calls_of_these_tools_and_nothing_else(
    tool_format: str, special: bool
) -> None:
    tokenizer = tokenizer_with_marks() if special else byte_level()
    guidance = guidance_of(TOOLS, REQUIRED, tool_format, tokenizer.token_to_id, None)
    grammar = Grammar(guidance, tokenizer)
    oslo = ("get.city-1", OSLO)
    assert grammar.takes(written(tool_format, oslo))
    assert grammar.takes(written(tool_format, oslo, ("now", "{}")))
    assert grammar.takes(written(tool_format, *[oslo] * MOST_CALLS))
    assert not grammar.takes(written(tool_format, *[oslo] * (MOST_CALLS + 1)))
    assert not grammar.takes(written(tool_format, ("now", '{"a": 1}')))
    assert not grammar.takes(written(tool_format, ("then", "{}")))
    assert not grammar.takes(written(tool_format, ("get.city-1", '{"city": "Rome"}')))
    assert not grammar.takes(written(tool_format, ("get.city-1", "{}")))
    assert not grammar.takes("I had rather not.")


@pytest.mark.parametrize("tool_format", FORMATS)
def test_of_calls_that_are_not_parallel_there_is_one(tool_format: str) -> None:
    grammar = Grammar(guidance_of(TOOLS, ONE, tool_format, lambda _: None, None), byte_level())
    now = ("now", "{}")
    assert grammar.takes(written(tool_format, now))
    assert not grammar.takes(written(tool_format, now, now))


class TestWithGuidanceOfItsOwn:
    JSON = Guidance("json_schema", '{"type": "object", "properties": {"a": {"const": 1}}}')

    def test_an_answer_may_be_json_or_calls(self) -> None:
        guidance = guidance_of(TOOLS, ToolChoice(), "hermes", lambda _: None, self.JSON)
        grammar = Grammar(guidance, byte_level())
        assert grammar.takes('{"a": 1}')
        assert grammar.takes(written("hermes", ("now", "{}")))
        assert not grammar.takes("no")

    def test_a_call_that_is_required_is_the_answer(self) -> None:
        guidance = guidance_of(TOOLS, REQUIRED, "hermes", lambda _: None, self.JSON)
        assert not Grammar(guidance, byte_level()).takes('{"a": 1}')

    @pytest.mark.parametrize("kind", ["regex", "lark"])
    def test_other_texts_have_no_tools(self, kind: str) -> None:
        answer = Guidance("regex" if kind == "regex" else "lark", "a")
        with pytest.raises(errors.InvalidRequest) as raised:
            guidance_of(TOOLS, ToolChoice(), "hermes", lambda _: None, answer)
        assert raised.value.param == "tools"


def test_without_a_must_anything_may_be_said() -> None:
    assert guidance_of(TOOLS, ToolChoice(), "hermes", lambda _: None, None) is None


def test_parameters_do_not_say_how_they_are_enforced() -> None:
    tool = Tool("f", parameters='{"x-guidance": {"lenient": true}}')
    with pytest.raises(errors.InvalidRequest, match="x-guidance") as raised:
        guidance_of([tool], REQUIRED, "hermes", lambda _: None, None)
    assert raised.value.param == "tools"


def test_what_is_wrong_with_the_grammar_is_wrong_with_the_tools(
    make_vocabulary: MakeVocabulary,
) -> None:
    prompt = ChatPrompt((Message("user", "x"),), TOOLS, REQUIRED)
    work = guided(Work(prompt, ResolvedParams()), make_vocabulary(template="x"))
    assert work.guidance is not None
    assert work.guidance.field == "tools"
    plain = Work(ChatPrompt((Message("user", "x"),)), ResolvedParams())
    assert guided(plain, make_vocabulary(template="x")) is plain


class TestMarks:
    """Control tokens that are told, where calls may come."""

    @pytest.mark.parametrize(
        ("tool_format", "seen"),
        [("hermes", "<tool_call></tool_call>"), ("mistral_args", "[TOOL_CALLS][ARGS]")],
    )
    def test_are_text_in_answers_to_chats_with_tools(
        self, make_vocabulary: MakeVocabulary, tool_format: str, seen: str
    ) -> None:
        tokenizer = tokenizer_with_marks()
        vocabulary = make_vocabulary(tokenizer=tokenizer, template=FORMATS[tool_format])
        ids = [*tokenizer.encode("a" + "".join(MARKS) + "ü").ids, eos_of(tokenizer)]
        chat = ChatPrompt((Message("user", "x"),), TOOLS)
        assert vocabulary.decoder_of(chat)(ids) == f"a{seen}ü"
        assert vocabulary.decoder_of(ChatPrompt(chat.messages))(ids) == "aü"
