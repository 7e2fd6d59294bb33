"""From an input to the rows that an encoder's graph reads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn

from tokenizers import Tokenizer

from lemonade_serve import errors
from lemonade_serve.protocol.messages import TextPrompt, TokensPrompt

_LETTERS_A_TOKEN = 64
"""A beginning of so many letters for each token that fits is read first: a text of which that is
too long need not be read any further."""
_PADDING = ("[PAD]", "<pad>", "<|endoftext|>")


class Row(NamedTuple):
    """The tokens of one input. `types` say to which text of a pair each belongs."""

    ids: list[int]
    types: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class Limit(NamedTuple):
    """How many tokens an input may have, and what says so."""

    tokens: int
    why: str


class Reader:
    """Reads inputs with a checkpoint's tokenizer, special tokens included.

    `prompt` is put before each text; `lowercase`: the model was trained on lower case. Raises
    ModelLoadError for a file that is no tokenizer.
    """

    def __init__(self, file: Path, limit: Limit, *, prompt: str = "", lowercase: bool) -> None:
        self._limit = limit
        self._prompt = prompt
        self._lowercase = lowercase
        try:
            self._whole = Tokenizer.from_file(str(file))
            self._cut = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise errors.ModelLoadError(f"{file.name}: {error}") from error
        self.pad = _padding(self._whole)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._cut.no_padding()
        self._cut.enable_truncation(limit.tokens, strategy="longest_first")
        self._size: int = self._whole.get_vocab_size(with_added_tokens=True)

    def read(
        self, given: TextPrompt | TokensPrompt, query: str | None, *, truncate: bool, named: str
    ) -> Row:
        """One input, or a query with it. Token ids are read as they are. Raises InvalidRequest and
        ContextLengthExceeded, calling the input as it is `named`."""
        if isinstance(given, TokensPrompt):
            return self._of_ids(list(given.tokens), truncate, named)
        texts = [self._prepared(text) for text in (query, given.text) if text is not None]
        begun = [text[: _LETTERS_A_TOKEN * self._limit.tokens] for text in texts]
        row = _row(self._whole, begun)
        if len(row) <= self._limit.tokens and begun != texts:
            begun = texts
            row = _row(self._whole, begun)
        if not row:
            raise errors.InvalidRequest(f"{named} has no tokens", param=_field(named))
        if len(row) <= self._limit.tokens:
            return row
        if not truncate:
            self._refuse(len(row), named)
        return _row(self._cut, begun)

    def _of_ids(self, ids: list[int], truncate: bool, named: str) -> Row:
        if unknown := [token for token in ids if not 0 <= token < self._size]:
            raise errors.InvalidRequest(
                f"{named} has the token {unknown[0]}: this model's are 0 to {self._size - 1}",
                param=_field(named),
            )
        if not truncate and len(ids) > self._limit.tokens:
            self._refuse(len(ids), named)
        ids = ids[: self._limit.tokens]
        return Row(ids, [0] * len(ids))

    def _refuse(self, tokens: int, named: str) -> NoReturn:
        raise errors.ContextLengthExceeded(
            f"{named} has {tokens} tokens or more, and {self._limit.why} is {self._limit.tokens}: "
            "shorten it, or send truncate: true",
            param=_field(named),
        )

    def _prepared(self, text: str) -> str:
        text = self._prompt + text
        return text.lower() if self._lowercase else text


def _row(tokenizer: Tokenizer, texts: list[str]) -> Row:
    """Of one text, or of a pair."""
    first, *second = texts
    encoding = tokenizer.encode(first, second[0] if second else None)
    return Row(encoding.ids, encoding.type_ids)


def _padding(tokenizer: Tokenizer) -> int:
    """The token that fills rows up. It is masked; but some graphs count positions by it."""
    if said := tokenizer.padding:
        pad: int = said["pad_id"]
        return pad
    known = (tokenizer.token_to_id(token) for token in _PADDING)
    return next((token for token in known if token is not None), 0)


def _field(named: str) -> str:
    return named.partition("[")[0]
