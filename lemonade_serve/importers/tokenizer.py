"""A vocabulary as files of the `tokenizers` library. SentencePiece's merges are rebuilt from its
scores.

Token types keep their meaning: control and unknown tokens are `special` (dropped by
`decode(skip_special_tokens=True)`), user-defined ones are cut out of the text first, as
SentencePiece and llama.cpp do, and decode to themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.container import Metadata
from lemonade_serve.importers.pretokenizers import PreTokenizer
from lemonade_serve.importers.vocabulary import ADDED, PREFIX, SPACE, TokenType, Vocabulary

Json: TypeAlias = dict[str, Any]


def write_tokenizer(into: Path, vocabulary: Vocabulary, metadata: Metadata, context: int) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    added = _added_tokens(vocabulary)
    if vocabulary.pre is None:
        model = _sentencepiece(vocabulary, metadata)
    else:
        model = _byte_level(vocabulary, vocabulary.pre, metadata)
    document: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **model,
        "post_processor": _post_processor(vocabulary),
    }
    names = _special_names(vocabulary)
    configuration: Json = {
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in token if key != "id"} for token in added
        },
        **names,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "GemmaTokenizer" if vocabulary.sentencepiece else "GPT2Tokenizer",
    }
    if vocabulary.chat_template is not None:
        configuration["chat_template"] = vocabulary.chat_template
    for name, content in (
        ("tokenizer.json", document),
        ("tokenizer_config.json", configuration),
        ("special_tokens_map.json", names),
    ):
        (into / name).write_bytes(msgspec.json.encode(content))


def _added_tokens(vocabulary: Vocabulary) -> list[Json]:
    special = (TokenType.CONTROL, TokenType.UNKNOWN)
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": index in vocabulary.stripping,
            # User-defined runs of spaces are found after spaces have become U+2581.
            "normalized": SPACE in token and kind == TokenType.USER_DEFINED,
            "special": kind in special,
        }
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in ADDED
    ]


def _post_processor(vocabulary: Vocabulary) -> Json | None:
    first = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    last = [vocabulary.eos[0]] if vocabulary.add_eos else []
    if not first and not last:
        return None

    def around(sequence: str, kind: int) -> list[Json]:
        def special(token: int) -> Json:
            return {"SpecialToken": {"id": vocabulary.tokens[token], "type_id": kind}}

        middle = {"Sequence": {"id": sequence, "type_id": kind}}
        return [*map(special, first), middle, *map(special, last)]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            vocabulary.tokens[token]: {
                "id": vocabulary.tokens[token],
                "ids": [token],
                "tokens": [vocabulary.tokens[token]],
            }
            for token in (*first, *last)
        },
    }


def _special_names(vocabulary: Vocabulary) -> dict[str, str]:
    names = {
        "bos_token": vocabulary.text(vocabulary.bos),
        "eos_token": vocabulary.text(vocabulary.eos[0]),
        "pad_token": vocabulary.text(vocabulary.padding),
        "unk_token": vocabulary.text(vocabulary.unknown),
    }
    return {role: text for role, text in names.items() if text is not None}


def _bpe(vocabulary: Vocabulary, merges: list[list[str]], **settings: object) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
        "merges": merges,
    }


def _byte_level(vocabulary: Vocabulary, pre: PreTokenizer, metadata: Metadata) -> Json:
    merges = [merge.split(" ") for merge in metadata.strings(f"{PREFIX}merges")]
    known = set(vocabulary.tokens)
    for merge in merges:
        if len(merge) != 2 or not known.issuperset((*merge, "".join(merge))):
            raise UnsupportedModel(f"the tokenizer's merge {' '.join(merge)!r} makes no token")
    splits: list[Json] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "normalizer": {"type": "NFC"} if pre.compose else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*splits, {**level, "use_regex": False}],
        },
        "decoder": {**level, "use_regex": True},
        "model": _bpe(vocabulary, merges, ignore_merges=pre.whole_words),
    }


def _sentencepiece(vocabulary: Vocabulary, metadata: Metadata) -> Json:
    scores = metadata.array(f"{PREFIX}scores")
    if len(scores) != len(vocabulary.tokens) or not np.isfinite(scores).all():
        raise UnsupportedModel("tokenizer.ggml.scores does not fit the tokens")
    steps: list[Json] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    back: list[Json] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if metadata.flag(f"{PREFIX}add_space_prefix", True):
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": _bpe(
            vocabulary,
            rebuilt_merges(vocabulary, scores.tolist()),
            unk_token=vocabulary.text(vocabulary.unknown),
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def rebuilt_merges(vocabulary: Vocabulary, scores: list[float]) -> list[list[str]]:
    """Every way to make a normal token of two others, by falling score.

    As Hugging Face's SentencePiece conversion does it: among the ways to one token, by the ids of
    the two halves.
    """
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    ranked: list[tuple[float, int, int, int]] = []
    for index, token in enumerate(vocabulary.tokens):
        if vocabulary.types[index] != TokenType.NORMAL:
            continue
        for cut in range(1, len(token)):
            left = ids.get(token[:cut])
            if left is not None:
                right = ids.get(token[cut:])
                if right is not None:
                    ranked.append((-scores[index], index, left, right))
    ranked.sort()
    tokens = vocabulary.tokens
    return [[tokens[left], tokens[right]] for _, _, left, right in ranked]
