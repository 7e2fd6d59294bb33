"""The tokenizer files, read by the `tokenizers` library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.container import Container
from lemonade_serve.importers.tokenizer import write_tokenizer
from lemonade_serve.importers.vocabulary import read_vocabulary
from tests.unit.importers.files import Model


def _write(architecture: str, folder: Path, **changes: object) -> Tokenizer:
    model = Model(architecture, Type.F32, tied=True)
    model.tokenizer |= {f"tokenizer.{key}": value for key, value in changes.items()}
    metadata = Container(model.write(folder / "tiny.gguf")).metadata
    rows = len(model.tokenizer["tokenizer.ggml.tokens"])
    write_tokenizer(folder, read_vocabulary(metadata, rows), metadata, 64)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _ggml(**changes: object) -> dict[str, Any]:
    return {f"ggml.{key}": value for key, value in changes.items()}


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return _write("llama", tmp_path_factory.mktemp("byte_level"))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return _write("gemma3", tmp_path_factory.mktemp("sentencepiece"))


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_level_text_survives_the_round_trip(byte_level: Tokenizer, text: str) -> None:
    assert byte_level.decode(byte_level.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_sentencepiece_text_survives_the_round_trip(sentencepiece: Tokenizer, text: str) -> None:
    special = [t.content for t in sentencepiece.get_added_tokens_decoder().values() if t.special]
    assume(not any(token in text for token in special))
    assert sentencepiece.decode(sentencepiece.encode(text).ids, skip_special_tokens=True) == text


def test_digits_are_split_before_anything_else(byte_level: Tokenizer) -> None:
    assert byte_level.encode("hell w12").tokens == ["hell", "Ġw", "1", "2"]


def test_llama_3_groups_digits_and_adds_bos(tmp_path: Path) -> None:
    changes = _ggml(pre="llama-bpe")
    model = Model("llama", Type.F32, tied=True)
    del model.tokenizer["tokenizer.ggml.add_bos_token"]
    model.tokenizer |= {f"tokenizer.{key}": value for key, value in changes.items()}
    metadata = Container(model.write(tmp_path / "tiny.gguf")).metadata
    rows = len(model.tokenizer["tokenizer.ggml.tokens"])
    write_tokenizer(tmp_path, read_vocabulary(metadata, rows), metadata, 64)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("hell 12").tokens == ["<|im_start|>", "hell", "Ġ", "12"]


def test_merges_are_rebuilt_by_score(sentencepiece: Tokenizer) -> None:
    tokens = sentencepiece.encode("hello world hell", add_special_tokens=False).tokens
    assert tokens == ["hello", "\u2581world", "\u2581", "hell"]


def test_user_defined_tokens_are_cut_out_first(sentencepiece: Tokenizer) -> None:
    tokens = sentencepiece.encode("a  world\n\n\n<b>é", add_special_tokens=False).tokens
    assert tokens[:5] == ["a", "\u2581\u2581", "w", "or", "ld"]
    assert tokens[5:] == ["\n\n", "<0x0A>", "<b>", "<0xC3>", "<0xA9>"]


def test_bos_is_added_as_the_file_says(sentencepiece: Tokenizer, tmp_path: Path) -> None:
    assert sentencepiece.encode("a").tokens == ["<bos>", "a"]
    assert sentencepiece.encode("a", add_special_tokens=False).tokens == ["a"]
    without = _write("gemma3", tmp_path, **_ggml(add_bos_token=False, add_eos_token=True))
    assert without.encode("a").tokens == ["a", "<eos>"]


def test_a_space_prefix_is_added_and_removed(tmp_path: Path) -> None:
    tokenizer = _write("gemma3", tmp_path, **_ggml(add_space_prefix=True))
    encoded = tokenizer.encode("world a", add_special_tokens=False)
    assert encoded.tokens == ["\u2581world", "\u2581", "a"]
    assert tokenizer.decode(encoded.ids) == "world a"


def test_the_added_tokens_of_phi3_swallow_the_spaces_behind_them(tmp_path: Path) -> None:
    tokenizer = _write("phi3", tmp_path)

    def tokens(text: str) -> list[str]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return [tokenizer.id_to_token(index) for index in ids]

    said = tokens("<end_of_turn>\n hello<b>  world")
    assert said == ["<end_of_turn>", "hello", "<b>", "w", "or", "ld"]
    assert tokens("<unk> a") == ["<unk>", "\u2581", "a"]


def test_qwens_text_is_composed_first(tmp_path: Path) -> None:
    tokenizer = _write("qwen2", tmp_path, **_ggml(pre="qwen2"))
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids


def test_only_control_tokens_are_special(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    text = "<|im_start|>hell<tool><|im_end|>"
    assert byte_level.decode(byte_level.encode(text).ids, skip_special_tokens=True) == "hell<tool>"
    ids = sentencepiece.encode("<end_of_turn>a  <b>").ids
    assert sentencepiece.decode(ids, skip_special_tokens=True) == "a  <b>"


def test_the_configuration_names_template_and_roles(tmp_path: Path) -> None:
    _write("llama", tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert content["chat_template"] == "{{ messages }}"
    assert (content["bos_token"], content["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert content["added_tokens_decoder"]["2"]["special"] is True
    _write("gemma3", tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert "chat_template" not in content
    assert (content["pad_token"], content["unk_token"]) == ("<pad>", "<unk>")


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("llama", {"model": "bert"}, "tokenizer 'bert' is not supported"),
        ("llama", {"pre": "gpt-4o"}, "pre-tokenizer 'gpt-4o' is not supported; supported: dbrx, "),
        ("phi3", {"model": "gpt2", "pre": "gpt-4o"}, "tokenizer of Phi 4 is not supported"),
        ("llama", {"merges": ["h e", "z ö"]}, "'z ö' makes no token"),
        ("llama", {"eos_token_id": 9999}, "eos_token_id is 9999"),
        ("llama", {"add_sep_token": True}, "add_sep_token"),
        ("gemma3", {"pre": "strange"}, "pre-tokenizer 'strange'"),
        ("gemma3", {"scores": [1.0]}, "scores does not fit"),
        ("gemma3", {"token_type": [1, 1]}, "token_type does not fit"),
    ],
)
def test_a_tokenizer_that_is_not_supported_is_named(
    architecture: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        _write(architecture, tmp_path, **_ggml(**changes))


def test_the_same_token_twice_is_refused(tmp_path: Path) -> None:
    tokens = Model("llama", Type.F32, tied=True).tokenizer["tokenizer.ggml.tokens"]
    with pytest.raises(UnsupportedModel, match="same token twice"):
        _write("llama", tmp_path, **_ggml(tokens=[*tokens[:-1], tokens[5]]))
