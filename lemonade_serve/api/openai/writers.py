"""Generations in OpenAI's words, streamed and whole."""

from __future__ import annotations

import secrets
import time

import msgspec

from lemonade_serve.api import answer
from lemonade_serve.api.errors import Shown
from lemonade_serve.api.openai import schemas
from lemonade_serve.domain.completion import Generation


def usage_of(generation: Generation) -> schemas.Usage:
    return schemas.Usage(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        total_tokens=generation.total_tokens,
        prompt_tokens_details=schemas.PromptTokensDetails(cached_tokens=generation.cached_tokens),
    )


class _OpenAIWriter:
    """What both kinds of stream share: an id, a time, and usage at the end if it was asked for."""

    prefix: str

    def __init__(self, *, include_usage: bool) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._include_usage = include_usage

    @property
    def no_usage(self) -> msgspec.UnsetType | None:
        """OpenAI sends a null in every event but the last when usage was asked for."""
        return None if self._include_usage else msgspec.UNSET

    def error(self, shown: Shown) -> bytes:
        return answer.event(shown.openai_body())

    def last(self, generation: Generation) -> schemas.Usage | None:
        return usage_of(generation) if self._include_usage else None


class CompletionWriter(_OpenAIWriter):
    """`text_completion` objects."""

    prefix = "cmpl"

    def whole(self, generation: Generation, text: str) -> schemas.Completion:
        choice = schemas.Choice(text=text, finish_reason=generation.reason)
        return self._object(generation, [choice], usage_of(generation))

    def text(self, generation: Generation, text: str) -> bytes:
        choice = schemas.Choice(text=text, finish_reason=None)
        return answer.event(self._object(generation, [choice], self.no_usage))

    def end(self, generation: Generation) -> bytes:
        choice = schemas.Choice(text="", finish_reason=generation.reason)
        closing = answer.event(self._object(generation, [choice], self.no_usage))
        if usage := self.last(generation):
            closing += answer.event(self._object(generation, [], usage))
        return closing + answer.DONE

    def _object(
        self,
        generation: Generation,
        choices: list[schemas.Choice],
        usage: schemas.Usage | msgspec.UnsetType | None,
    ) -> schemas.Completion:
        return schemas.Completion(
            id=self.id,
            created=self.created,
            model=generation.model,
            choices=choices,
            usage=usage,
        )


class ChatWriter(_OpenAIWriter):
    """`chat.completion` objects, and `chat.completion.chunk` ones while it streams."""

    prefix = "chatcmpl"

    def __init__(self, *, include_usage: bool) -> None:
        super().__init__(include_usage=include_usage)
        self._opened = False

    def whole(self, generation: Generation, text: str) -> schemas.ChatCompletion:
        message = schemas.AssistantMessage(content=text)
        return schemas.ChatCompletion(
            id=self.id,
            created=self.created,
            model=generation.model,
            choices=[schemas.ChatChoice(message=message, finish_reason=generation.reason)],
            usage=usage_of(generation),
        )

    def text(self, generation: Generation, text: str) -> bytes:
        return self._opening(generation) + self._chunk(generation, schemas.Delta(content=text))

    def end(self, generation: Generation) -> bytes:
        closing = self._opening(generation)
        closing += self._chunk(generation, schemas.Delta(), generation.reason)
        if usage := self.last(generation):
            closing += answer.event(self._object(generation, [], usage))
        return closing + answer.DONE

    def _opening(self, generation: Generation) -> bytes:
        """The role comes once, first."""
        if self._opened:
            return b""
        self._opened = True
        return self._chunk(generation, schemas.Delta(role="assistant", content=""))

    def _chunk(
        self, generation: Generation, delta: schemas.Delta, reason: str | None = None
    ) -> bytes:
        choice = schemas.ChunkChoice(delta=delta, finish_reason=reason)
        return answer.event(self._object(generation, [choice], self.no_usage))

    def _object(
        self,
        generation: Generation,
        choices: list[schemas.ChunkChoice],
        usage: schemas.Usage | msgspec.UnsetType | None,
    ) -> schemas.ChatChunk:
        return schemas.ChatChunk(
            id=self.id,
            created=self.created,
            model=generation.model,
            choices=choices,
            usage=usage,
        )
