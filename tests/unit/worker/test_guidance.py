"""Masks of grammars, by llguidance itself, on a vocabulary of single bytes."""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Guidance, ResolvedParams, TextPrompt, Work
from lemonade_serve.worker.guidance import MAX_GRAMMAR_BYTES, GrammarMask, Grammars
from tests.unit.worker.vocabularies import BOS, byte_level, eos_of, id_of

THOUGHT = "<thought>"
TOKENIZER = byte_level()
TOKENIZER.add_special_tokens([AddedToken(THOUGHT, special=True)])
EOS, OTHER_EOS = eos_of(TOKENIZER), id_of(TOKENIZER, BOS)
MakeMasks = Callable[..., tuple[GrammarMask, ...]]


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    TOKENIZER.save(str(path))
    return path


@pytest.fixture
def masks(tokenizer_json: Path) -> MakeMasks:
    """Compiles a grammar; a dict is a JSON Schema."""
    grammars = Grammars(tokenizer_json, [EOS, OTHER_EOS])

    def make(grammar: str | dict[str, Any], kind: Any = "regex", n: int = 1) -> Any:
        if isinstance(grammar, dict):
            grammar, kind = json.dumps(grammar), "json_schema"
        guidance = Guidance(kind, grammar)
        return grammars.masks(Work(TextPrompt("x"), ResolvedParams(), n, guidance=guidance))

    return make


def tokens_of(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


def say(mask: GrammarMask, text: str) -> None:
    """Token by token, each of which must be allowed."""
    for token in tokens_of(text):
        assert token in allowed(mask), text
        mask.accept(token)


def allowed(mask: GrammarMask) -> set[int]:
    octets = mask.allowed().view(np.uint8)
    return set(np.flatnonzero(np.unpackbits(octets, bitorder="little")).tolist())


def keeps_to(mask: GrammarMask, text: str) -> bool:
    """Whether the mask allows the text, and an end behind it."""
    for token in tokens_of(text):
        if token not in allowed(mask):
            return False
        mask.accept(token)
    return EOS in allowed(mask)


def test_only_what_the_grammar_allows_is_allowed(masks: MakeMasks) -> None:
    (mask,) = masks("a[bc]")
    assert allowed(mask) == set(tokens_of("a"))
    say(mask, "a")
    assert allowed(mask) == set(tokens_of("bc"))


def test_every_end_is_allowed_where_the_grammar_may_end_and_only_there(masks: MakeMasks) -> None:
    (mask,) = masks("ab*")
    assert not allowed(mask) & {EOS, OTHER_EOS}
    say(mask, "a")
    assert allowed(mask) == {*tokens_of("b"), EOS, OTHER_EOS}
    assert not mask.over
    mask.accept(OTHER_EOS)
    assert mask.over


@pytest.mark.parametrize(
    ("kind", "grammar", "whole"),
    [
        ("regex", "(ab)*|c{2,3}", "(ab)*|c{2,3}"),
        ("lark", 'start: A "b" start?\nA: /[ac]/', "([ac]b)+"),
        ("lark", 'start: "a" start "b" | "c"', "c|acb|aacbb"),
        ("json_schema", '{"enum": [1, 12, -3]}', "1|12|-3"),
        ("json_schema", '{"type": "array", "items": {"const": 1}}', r"\[(1(,1)*)?\]"),
    ],
)
def test_all_short_texts_are_judged_as_an_expression_of_python_does(
    masks: MakeMasks, kind: str, grammar: str, whole: str
) -> None:
    letters = "[1,]2-3" if kind == "json_schema" else "abc"
    texts = ["".join(chosen) for n in range(5) for chosen in itertools.product(letters, repeat=n)]
    judges = zip(texts, masks(grammar, kind, len(texts)), strict=True)
    kept = {text for text, mask in judges if keeps_to(mask, text)}
    assert kept == {text for text in texts if re.fullmatch(whole, text)}


@pytest.mark.parametrize("end", [EOS, OTHER_EOS])
@pytest.mark.parametrize(
    ("kind", "grammar", "text"),
    [
        ("regex", "ab", "ab"),
        ("lark", 'start: "a" "b"', "ab"),
        ("json_schema", '{"type": "boolean"}', "true"),
    ],
)
def test_a_grammar_of_any_kind_ends_by_itself_or_by_any_end(
    masks: MakeMasks, kind: str, grammar: str, text: str, end: int
) -> None:
    (mask,) = masks(grammar, kind)
    for token in tokens_of(text):
        assert not mask.over
        assert not allowed(mask) & {EOS, OTHER_EOS}
        mask.accept(token)
    assert mask.over
    (longer,) = masks(f"({text})+")
    say(longer, text)
    assert not longer.over
    longer.accept(end)
    assert longer.over


def test_a_token_of_several_letters_is_allowed_where_all_of_them_are(tmp_path: Path) -> None:
    tokenizer = byte_level("ab", "abc", "bc", "aa")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (mask,) = Grammars(tmp_path / "tokenizer.json", [eos_of(tokenizer)]).masks(
        Work(TextPrompt("x"), ResolvedParams(), guidance=Guidance("regex", "abc?"))
    )
    assert allowed(mask) == {id_of(tokenizer, token) for token in ("a", "ab", "abc")}
    mask.accept(id_of(tokenizer, "a"))
    assert allowed(mask) == {id_of(tokenizer, token) for token in ("b", "bc")}
    mask.accept(id_of(tokenizer, "bc"))
    assert mask.over


def test_tokens_that_are_no_text_are_none_of_a_grammar(masks: MakeMasks) -> None:
    (mask,) = masks(r"(?s:.)*")
    assert id_of(TOKENIZER, THOUGHT) not in allowed(mask)
    say(mask, "<")
    assert allowed(mask) >= set(tokens_of("<t"))
    (other,) = masks(f'start: "a" {THOUGHT}', "lark")
    say(other, "a")
    assert allowed(other) == {id_of(TOKENIZER, THOUGHT)}


def test_it_is_over_when_nothing_may_follow(masks: MakeMasks) -> None:
    (mask,) = masks({"enum": ["ja", "jawohl"]})
    say(mask, '"ja')
    assert not mask.over
    say(mask, '"')
    assert mask.over


def test_an_end_in_the_middle_of_a_grammar_is_not_its_end(masks: MakeMasks) -> None:
    (mask,) = masks(f'start: "a" <[{EOS}]> "b"', "lark")
    say(mask, "a")
    mask.accept(EOS)
    assert not mask.over
    say(mask, "b")
    assert mask.over


def test_sequences_of_a_request_go_ways_of_their_own(masks: MakeMasks) -> None:
    one, two = masks("ax|by", n=2)
    say(one, "a")
    say(two, "by")
    assert (one.over, two.over) == (False, True)
    assert allowed(one) == set(tokens_of("x"))


def test_json_has_no_blanks_that_go_on_for_ever(masks: MakeMasks) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert keeps_to(masks(schema)[0], '{"a":1}')
    assert not keeps_to(masks(schema)[0], '{ "a":1}')
    assert not keeps_to(masks(schema)[0], "{}")


def test_characters_of_several_bytes_may_come_in_parts(masks: MakeMasks) -> None:
    (mask,) = masks("[é日]{2}")
    say(mask, "日é")
    assert mask.over


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"items": {"if": {}, "then": {}}}, "if"),
        ({"properties": {"a": {"contains": {}}}}, "contains"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "string", "format": "iri"}, "format"),
        ({"$ref": "#/$defs/nobody"}, r"\$ref"),
        ({"type": "rabbit"}, "type"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "minimum"),
        ({"x-guidance": {"lenient": True}, "uniqueItems": True}, "x-guidance"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_its_keyword(
    masks: MakeMasks, schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=rf"cannot be enforced: .*{keyword}") as raised:
        masks(schema)
    assert raised.value.param == "response_format"


@pytest.mark.parametrize(
    ("kind", "grammar", "param"),
    [
        ("json_schema", '{"type": "array", "uniqueItems": true}', "response_format"),
        ("json_schema", '{"items":' * 5000 + "{}" + "}" * 5000, "response_format"),
        ("json_schema", "{", "response_format"),
        ("json_schema", "true", "response_format"),
        ("regex", "(a", "regex"),
        ("regex", "(?=a)b", "regex"),
        ("regex", "(" * 5000 + "a" + ")" * 5000, "regex"),
        ("lark", "start: other", "grammar"),
        ("lark", "", "grammar"),
        ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000, "grammar"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_said_in_a_few_lines(
    masks: MakeMasks, kind: str, grammar: str, param: str
) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        masks(grammar, kind)
    assert raised.value.param == param
    assert len(raised.value.message) < 1000


def test_a_field_of_another_name_is_named_instead(tokenizer_json: Path) -> None:
    guidance = Guidance("json_schema", '{"uniqueItems": true}', "text.format")
    with pytest.raises(errors.InvalidRequest, match="cannot be enforced") as raised:
        Grammars(tokenizer_json, [EOS]).masks(
            Work(TextPrompt("x"), ResolvedParams(), guidance=guidance)
        )
    assert raised.value.param == "text.format"


def test_a_grammar_has_so_many_bytes_at_most(masks: MakeMasks) -> None:
    masks("é" * (MAX_GRAMMAR_BYTES // 2))
    with pytest.raises(errors.InvalidRequest, match=f"{MAX_GRAMMAR_BYTES + 2} bytes"):
        masks("é" * (MAX_GRAMMAR_BYTES // 2 + 1))


def test_nothing_is_fetched_from_elsewhere(masks: MakeMasks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        with pytest.raises(errors.InvalidRequest, match=r"\$ref"):
            masks({"$ref": url})
        with pytest.raises(BlockingIOError):
            server.accept()


def test_past_a_limit_it_fails_rather_than_allow_the_end(masks: MakeMasks) -> None:
    (mask,) = masks("(" * 12 + "a" + "{1,1000})" * 12)
    with pytest.raises(errors.GenerationFailed, match="too complex"):
        for _ in range(50):
            say(mask, "a")
    with pytest.raises(errors.GenerationFailed):
        mask.allowed()


def test_what_is_not_allowed_is_not_accepted_and_not_told(masks: MakeMasks) -> None:
    (mask,) = masks("a+")
    (secret,) = tokens_of("Z")
    with pytest.raises(errors.GenerationFailed) as raised:
        mask.accept(secret)
    assert "Z" not in raised.value.message


def test_a_model_without_an_end_cannot_be_guided(tokenizer_json: Path) -> None:
    work = Work(TextPrompt("x"), ResolvedParams(), guidance=Guidance("regex", "a"))
    with pytest.raises(errors.InvalidRequest, match="cannot be guided"):
        Grammars(tokenizer_json, []).masks(work)
