"""A checkpoint's own words: its tokenizer, its special tokens and its chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tokenizers import Tokenizer

from lemonade_serve import errors
from lemonade_serve.protocol.messages import (
    ChatPrompt,
    Prompt,
    TextPrompt,
    TokensPrompt,
)
from lemonade_serve.worker.infill import Infill
from lemonade_serve.worker.template import MARKS, ChatTemplate
from lemonade_serve.worker.text import Decode


class _ModelConfig(msgspec.Struct):
    context_length: int
    vocab_size: int | None = None
    eos_token_id: int | list[int] = msgspec.field(default_factory=list)


class _GenaiConfig(msgspec.Struct):
    model: _ModelConfig


class Vocabulary:
    """Encodes prompts and decodes tokens as the checkpoint means them.

    Raises ModelLoadError when the directory lacks a file or a file is not what it should be.
    """

    def __init__(self, directory: Path) -> None:
        model = _read(directory / "genai_config.json", _GenaiConfig).model
        eos = model.eos_token_id
        self.context_length = model.context_length
        self.eos_ids = frozenset([eos] if isinstance(eos, int) else eos)
        self.tokenizer_json = directory / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(self.tokenizer_json))
        except Exception as error:  # the library raises nothing narrower
            raise errors.ModelLoadError(f"{self.tokenizer_json}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        # Tokenizers may know tokens that the model was cut off from (Gemma 3's of images).
        self.size = min(size, model.vocab_size or size)
        longest_token = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))
        self._longest_prompt = self.context_length * longest_token
        added = self._tokenizer.get_added_tokens_decoder().items()
        self._special = frozenset(id for id, token in added if token.special)
        path = directory / "tokenizer_config.json"
        config = _read(path, dict[str, Any]) if path.exists() else {}
        self._template = ChatTemplate.read(directory, config)
        self._tool_format = self._template.tool_format(self._is_token) if self._template else ""
        self._bytes = _spelling(self._tokenizer)
        self._infill = Infill.of(self._tokenizer)

    def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens: BOS and the like as the tokenizer, or the template, puts them.

        Raises NoChatTemplate for a chat without a template, InvalidRequest for an empty prompt,
        for a token id that is not in the vocabulary and for a chat that the template refuses.
        """
        match prompt:
            case TokensPrompt(tokens):
                ids = list(tokens)
                if any(not 0 <= token < self.size for token in ids):
                    raise errors.InvalidRequest(
                        f"token ids are 0 to {self.size - 1} for this model", param="prompt"
                    )
            case ChatPrompt():
                text = self.render(prompt)
                ids = self._tokenise(text, field_of(prompt), add_special_tokens=False)
            case TextPrompt(text, str() as suffix):
                ids = self._between(text, suffix)
            case TextPrompt(text):
                ids = self._tokenise(text, field_of(prompt), add_special_tokens=True)
        if not ids:
            raise errors.InvalidRequest("the prompt is empty", param=field_of(prompt))
        return ids

    def text_of(self, prompt: Prompt) -> str:
        """A prompt as its answer tells it."""
        match prompt:
            case TextPrompt(text):
                return text
            case TokensPrompt(tokens):
                return self.decode(tokens)
            case ChatPrompt():
                return ""

    def _between(self, text: str, suffix: str) -> list[int]:
        """Raises InvalidRequest where the model fills in nothing."""
        if self._infill is None:
            raise errors.InvalidRequest(
                "this model was not made to write what comes before a text: its vocabulary has no "
                "tokens for that",
                param="suffix",
            )
        begin = self._tokenise("", "prompt", add_special_tokens=True)
        before = self._tokenise(text, "prompt", add_special_tokens=False)
        after = self._tokenise(suffix, "suffix", add_special_tokens=False)
        return [*begin, *self._infill.join(before, after)]

    def _tokenise(self, text: str, field: str, *, add_special_tokens: bool) -> list[int]:
        """Raises ContextLengthExceeded without a look at a text that no tokens could shorten."""
        if len(text) > self._longest_prompt:
            raise errors.ContextLengthExceeded(
                f"the prompt has {len(text)} characters; this model's context is "
                f"{self.context_length} tokens",
                param=field,
            )
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if unknown := [token for token in ids if token >= self.size]:
            spelt = self._tokenizer.id_to_token(unknown[0])
            raise errors.InvalidRequest(f"this model knows no {spelt}", param=field)
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text, without control tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def is_silent(self, token: int) -> bool:
        """Whether it is a control token, which `decode` leaves out."""
        return token in self._special

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for, which may be half a character."""
        return self._bytes(self._tokenizer.id_to_token(token) or "")

    def decoder_of(self, prompt: Prompt) -> Decode:
        """How answers to it are decoded: marks of calls are text, where calls may come."""
        if not (written := self.tool_format(prompt)):
            return self.decode
        marks = [self.special(mark) for mark in MARKS[written]]
        hidden = self._special - frozenset(mark for mark in marks if mark is not None)

        def decode(tokens: Sequence[int]) -> str:
            seen = [token for token in tokens if token not in hidden]
            text: str = self._tokenizer.decode(seen, skip_special_tokens=False)
            return text

        return decode

    def special(self, mark: str) -> int | None:
        """The control token that is written so, if there is one."""
        token: int | None = self._tokenizer.token_to_id(mark)
        return token if token in self._special else None

    def tool_format(self, prompt: Prompt) -> str:
        """How calls of its tools are written; empty, if it has none."""
        return self._tool_format if isinstance(prompt, ChatPrompt) and prompt.tools else ""

    def render(self, prompt: ChatPrompt) -> str:
        """The chat as the model was trained to read it, open for the assistant's turn."""
        if self._template is None:
            raise errors.NoChatTemplate(param="messages")
        return self._template.render(prompt, self._tool_format)

    def _is_token(self, text: str) -> bool:
        return self._tokenizer.token_to_id(text) is not None


def field_of(prompt: Prompt) -> str:
    """What a request calls its prompt, for errors."""
    return "messages" if isinstance(prompt, ChatPrompt) else "prompt"


def _spelling(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """How the vocabulary spells bytes: each as a letter of its own, or as text with `▁` for a space
    and `<0x0A>` for what is no text. Control tokens are spelt as they are."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    letters = _byte_letters() if "ByteLevel" in str(tokenizer.decoder) else None

    def spell(token: str) -> bytes:
        if token in added:
            return token.encode()
        if letters is not None:
            return b"".join(letters.get(letter, letter.encode()) for letter in token)
        if hexadecimal := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return bytes.fromhex(hexadecimal[1])
        return token.replace("▁", " ").encode()

    return spell


def _byte_letters() -> dict[str, bytes]:
    """Source: GPT-2's bytes_to_unicode: what can be seen is itself, the rest comes after 255."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    letters = [*map(chr, seen), *(chr(256 + n) for n in range(len(unseen)))]
    return {letter: bytes([b]) for letter, b in zip(letters, [*seen, *unseen], strict=True)}


_T = TypeVar("_T")


def _read(path: Path, schema: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=schema)
    except (OSError, msgspec.DecodeError) as error:
        raise errors.ModelLoadError(f"{path}: {error}") from error
