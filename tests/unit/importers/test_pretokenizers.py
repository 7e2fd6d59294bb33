"""Text is cut into words as the models' own tokenizers cut it.

tests/data/pretokenizers.json holds what those say of `CHOSEN`; `check_tokenizers.py` wrote it, and
compares ids over whole vocabularies besides.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from tokenizers import Tokenizer

from lemonade_serve.importers.container import Container
from lemonade_serve.importers.pretokenizers import PRE_TOKENIZERS
from lemonade_serve.importers.tokenizer import write_tokenizer
from lemonade_serve.importers.vocabulary import read_vocabulary
from tests.unit.importers.files import Model
from tests.unit.importers.texts import CHOSEN

_DATA = Path(__file__).parents[2] / "data" / "pretokenizers.json"
WORDS: dict[str, list[list[str]]] = json.loads(_DATA.read_bytes())


def _words(pre: str, folder: Path) -> list[list[str]]:
    model = Model("qwen3", Type.F32, tied=True)
    model.tokenizer["tokenizer.ggml.pre"] = pre
    metadata = Container(model.write(folder / "tiny.gguf")).metadata
    rows = len(model.tokenizer["tokenizer.ggml.tokens"])
    write_tokenizer(folder, read_vocabulary(metadata, rows), metadata, 64)
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    normal = ours.normalizer.normalize_str if ours.normalizer else str
    return [
        [word for word, _ in ours.pre_tokenizer.pre_tokenize_str(normal(text))] for text in CHOSEN
    ]


@pytest.mark.parametrize("pre", WORDS)
def test_words_are_those_of_the_models_own_tokenizer(pre: str, tmp_path: Path) -> None:
    assert _words(pre, tmp_path) == WORDS[pre]


def test_cl100k_is_cut_as_llama_3_is(tmp_path: Path) -> None:
    assert _words("dbrx", tmp_path) == WORDS["llama-bpe"]


def test_deepseeks_qwen_is_cut_as_qwen_is_and_composes_nothing(tmp_path: Path) -> None:
    said = _words("deepseek-r1-qwen", tmp_path)
    composed = [unicodedata.is_normalized("NFC", text) for text in CHOSEN]
    assert [ours == theirs for ours, theirs in zip(said, WORDS["qwen2"], strict=True)] == composed
    assert not all(composed)


def test_nothing_is_known_that_is_not_tested() -> None:
    assert PRE_TOKENIZERS.keys() == WORDS.keys() | {"dbrx", "deepseek-r1-qwen"}
