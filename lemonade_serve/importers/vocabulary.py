"""The vocabulary in a GGUF's metadata: tokens, their types, and the ids that have a role.

Two kinds of tokenizer are known: byte-level BPE (`tokenizer.ggml.model = gpt2`) with a named
pre-tokenizer, and SentencePiece BPE (`llama`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
import numpy as np

from lemonade_serve.errors import UnsupportedModel
from lemonade_serve.importers.container import Metadata
from lemonade_serve.importers.pretokenizers import PreTokenizer, pre_tokenizer

SPACE: Final = "\u2581"
"""What SentencePiece writes for a space."""


class TokenType(IntEnum):
    """`llama_token_type` of llama.cpp."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


ADDED: Final = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
"""Tokens that are looked for in a text before anything else."""


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens by id, and the ids that have a role.

    `pre`: how text is cut first; None for SentencePiece. `eos` are all ends of a turn, the one that
    the file names first. `stripping`: tokens that swallow the spaces behind them.
    """

    tokens: list[str]
    types: list[int]
    pre: PreTokenizer | None
    stripping: frozenset[int]
    bos: int | None
    eos: tuple[int, ...]
    unknown: int | None
    padding: int
    add_bos: bool
    add_eos: bool
    chat_template: str | None

    @property
    def sentencepiece(self) -> bool:
        """Whether the merges are SentencePiece's, made from scores."""
        return self.pre is None

    def text(self, token: int | None) -> str | None:
        """The token's text."""
        return None if token is None else self.tokens[token]


PREFIX: Final = "tokenizer.ggml."

# Ends of a turn that a file may have besides its one `eos_token_id`; names from llama.cpp.
_END_NAMES: Final = frozenset(
    {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
        "<end_of_turn>", "<eos>", "</s>", "<EOT>", "_<EOT>", "<end_of_utterance>",
    }
)  # fmt: skip

_PHI3_KEEPS_SPACES: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def read_vocabulary(metadata: Metadata, rows: int) -> Vocabulary:
    """The vocabulary of a model whose embedding has `rows` rows.

    Errors: `UnsupportedModel` that names the tokenizer, its `pre` or the key at fault.
    """
    pre = _pre_tokenizer(metadata)
    tokens = metadata.strings(f"{PREFIX}tokens")
    types = _types(metadata, len(tokens))
    if len(tokens) != rows:
        raise UnsupportedModel(f"{len(tokens)} tokens, but the embedding has {rows} rows")
    if pre is None:
        tokens = [
            token.replace(" ", SPACE) if kind == TokenType.USER_DEFINED else token
            for token, kind in zip(tokens, types, strict=True)
        ]
    if len(set(tokens)) != len(tokens):
        raise UnsupportedModel("the vocabulary has the same token twice")
    if metadata.flag(f"{PREFIX}add_sep_token", False):
        raise UnsupportedModel("tokenizer.ggml.add_sep_token is not supported")
    bos = _role(metadata, "bos", len(tokens))
    default_bos = pre is None or pre.add_bos
    eos = _ends(metadata, tokens, types)
    padding = _role(metadata, "padding", len(tokens))
    return Vocabulary(
        tokens=tokens,
        types=types,
        pre=pre,
        stripping=_stripping(metadata, tokens, types),
        bos=bos,
        eos=eos,
        unknown=_role(metadata, "unknown", len(tokens)),
        padding=eos[0] if padding is None else padding,
        add_bos=bos is not None and metadata.flag(f"{PREFIX}add_bos_token", default_bos),
        add_eos=metadata.flag(f"{PREFIX}add_eos_token", False),
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
    )


def _pre_tokenizer(metadata: Metadata) -> PreTokenizer | None:
    model = metadata.text(f"{PREFIX}model")
    if model not in ("llama", "gpt2"):
        raise UnsupportedModel(f"the tokenizer {model!r} is not supported; supported: gpt2, llama")
    if model == "gpt2":
        if _is_phi3(metadata):
            raise UnsupportedModel("the tokenizer of Phi 4 is not supported: its file does not say "
                                   "which tokens swallow the spaces beside them")  # fmt: skip
        return pre_tokenizer(metadata.text(f"{PREFIX}pre", ""))
    pre = metadata.text(f"{PREFIX}pre", "default")
    if pre != "default":
        raise UnsupportedModel(f"the pre-tokenizer {pre!r} of a llama tokenizer is not supported")
    return None


def _is_phi3(metadata: Metadata) -> bool:
    return metadata.text("general.architecture", "") == "phi3"


def _stripping(metadata: Metadata, tokens: list[str], types: list[int]) -> frozenset[int]:
    """Phi 3's added tokens but for three: its tokenizer_config.json has it, and so llama.cpp."""
    if not _is_phi3(metadata):
        return frozenset()
    return frozenset(
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in ADDED and token not in _PHI3_KEEPS_SPACES
    )


def _types(metadata: Metadata, count: int) -> list[int]:
    types = metadata.array(f"{PREFIX}token_type")
    known = np.isin(types, list(TokenType))
    if len(types) != count or not known.all():
        raise UnsupportedModel("tokenizer.ggml.token_type does not fit the tokens")
    result: list[int] = types.tolist()
    return result


def _role(metadata: Metadata, role: str, count: int) -> int | None:
    key = f"{PREFIX}{role}_token_id"
    if key not in metadata:
        return None
    token = metadata.integer(key)
    if token >= count:
        raise UnsupportedModel(f"{key} is {token}, but there are {count} tokens")
    return token


def _ends(metadata: Metadata, tokens: list[str], types: list[int]) -> tuple[int, ...]:
    declared = [_role(metadata, role, len(tokens)) for role in ("eos", "eot", "eom")]
    marked = (TokenType.CONTROL, TokenType.USER_DEFINED)
    named = [
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in marked and token in _END_NAMES
    ]
    ends = tuple(dict.fromkeys(token for token in (*declared, *named) if token is not None))
    if not ends:
        raise UnsupportedModel("tokenizer.ggml.eos_token_id is missing, and no token ends a turn")
    return ends
