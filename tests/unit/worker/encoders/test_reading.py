"""Inputs as an encoder reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import TextPrompt, TokensPrompt
from lemonade_serve.worker.encoders.reading import Limit, Reader, Row
from tests.encoders import TOKENS, tokenizer


def reader(directory: Path, limit: int = 8, **said: str) -> Reader:
    tokenizer().save(str(directory / "tokenizer.json"))
    bound = Limit(limit, "this model's limit")
    return Reader(directory / "tokenizer.json", bound, lowercase=False, **said)


def read(
    reader: Reader,
    given: str | tuple[int, ...],
    query: str | None = None,
    *,
    truncate: bool = False,
    named: str = "input[3]",
) -> list[str]:
    prompt = TextPrompt(given) if isinstance(given, str) else TokensPrompt(given)
    return spelt(reader.read(prompt, query, truncate=truncate, named=named))


def spelt(row: Row) -> list[str]:
    return [TOKENS[token] for token in row.ids]


def test_a_text_has_its_special_tokens_and_neither_padding_nor_the_files_truncation(
    tmp_path: Path,
) -> None:
    told = read(reader(tmp_path), "Lemons are sour")
    assert told == ["[CLS]", "lemons", "are", "sour", "[SEP]"]
    assert read(reader(tmp_path), "sour") == ["[CLS]", "sour", "[SEP]"]
    assert reader(tmp_path).pad == TOKENS.index("[PAD]")


def test_a_document_comes_after_the_query_and_is_told_from_it(tmp_path: Path) -> None:
    row = reader(tmp_path).read(
        TextPrompt("a lemon"), "what is sour", truncate=False, named="documents[0]"
    )
    assert spelt(row) == ["[CLS]", "what", "is", "sour", "[SEP]", "a", "lemon", "[SEP]"]
    assert row.types == [0, 0, 0, 0, 0, 1, 1, 1]


def test_token_ids_are_read_as_they_are(tmp_path: Path) -> None:
    assert read(reader(tmp_path), (6, 4)) == ["lemon", "sour"]


def test_the_checkpoints_prompt_is_put_before_a_text(tmp_path: Path) -> None:
    told = read(reader(tmp_path, prompt="what is "), "a lemon")
    assert told == ["[CLS]", "what", "is", "a", "lemon", "[SEP]"]


def test_one_that_is_too_long_is_named_with_the_limit(tmp_path: Path) -> None:
    for given in ("a " * 9, tuple([4] * 9)):
        with pytest.raises(errors.ContextLengthExceeded) as raised:
            read(reader(tmp_path), given)
        assert "input[3]" in raised.value.message
        assert "this model's limit is 8" in raised.value.message
        assert raised.value.param == "input"


def test_truncated_it_keeps_its_special_tokens(tmp_path: Path) -> None:
    told = read(reader(tmp_path, 4), "lemons are sour", truncate=True)
    assert told == ["[CLS]", "lemons", "are", "[SEP]"]
    assert read(reader(tmp_path, 2), (4, 5, 6), truncate=True) == ["sour", "sweet"]


def test_truncated_the_longer_of_a_pair_is_cut(tmp_path: Path) -> None:
    told = read(reader(tmp_path), "sugar is sweet a a a", "lemon", truncate=True)
    assert told == ["[CLS]", "lemon", "[SEP]", "sugar", "is", "sweet", "a", "[SEP]"]


def test_a_text_is_read_to_its_end_where_nothing_becomes_of_most_of_it(tmp_path: Path) -> None:
    padded = "sour" + " " * 5000 + "lemon"
    assert read(reader(tmp_path), padded) == ["[CLS]", "sour", "lemon", "[SEP]"]


def test_a_token_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"input\[3\] has the token 99.*0 to 14"):
        read(reader(tmp_path), (4, 99))


def test_what_is_no_tokenizer_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.ModelLoadError, match=r"tokenizer\.json"):
        Reader(tmp_path / "tokenizer.json", Limit(8, ""), lowercase=False)
