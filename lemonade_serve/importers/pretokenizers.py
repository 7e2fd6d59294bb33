"""How a byte-level BPE cuts text into words before it merges: known only by a name.

`tokenizer.ggml.pre` names it, the regular expressions are in llama.cpp's source and in the models'
own tokenizer.json. Patterns here are the latter's: the `tokenizers` library runs them as they are.
A wrong one fails silently, so an unknown name is an error; docs/import.md says what each of these
was checked against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from lemonade_serve.errors import UnsupportedModel

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3: Final = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST
_QWEN2: Final = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST
_TEKKEN: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PreTokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """Splits made one after the other.

    `compose`: text is brought to Unicode's form NFC first. `whole_words`: a word in the vocabulary
    needs no merges. `add_bos`: what holds for files that do not say.
    """

    patterns: tuple[str, ...]
    compose: bool = False
    whole_words: bool = False
    add_bos: bool = False


_DIGITS_FIRST: Final = PreTokenizer(patterns=(r"\p{N}", _GPT2))

PRE_TOKENIZERS: Final[Mapping[str, PreTokenizer]] = {
    "dbrx": PreTokenizer(patterns=(_LLAMA3,)),
    "deepseek-r1-qwen": PreTokenizer(patterns=(_QWEN2,)),
    "gpt-2": PreTokenizer(patterns=(_GPT2,)),
    "llama-bpe": PreTokenizer(patterns=(_LLAMA3,), whole_words=True, add_bos=True),
    "qwen2": PreTokenizer(patterns=(_QWEN2,), compose=True),
    "refact": _DIGITS_FIRST,
    "smollm": _DIGITS_FIRST,
    "starcoder": _DIGITS_FIRST,
    "tekken": PreTokenizer(patterns=(_TEKKEN,), whole_words=True, add_bos=True),
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of that name.

    Errors: `UnsupportedModel` for a name that is not known.
    """
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        known = ", ".join(PRE_TOKENIZERS)
        raise UnsupportedModel(f"the pre-tokenizer {name!r} is not supported; supported: {known}")
    return found
