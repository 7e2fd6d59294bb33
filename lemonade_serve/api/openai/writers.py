"""Generations in OpenAI's words, streamed and whole."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from lemonade_serve.api import answer
from lemonade_serve.api.answer import Part
from lemonade_serve.api.errors import Shown
from lemonade_serve.api.openai import answers, requests
from lemonade_serve.api.openai.fingerprint import fingerprint_of
from lemonade_serve.api.openai.logprobs import TextLogprobs, chat_logprobs
from lemonade_serve.api.openai.timings import Timings, timings_of
from lemonade_serve.domain.completion import Generation
from lemonade_serve.domain.tools import CallPart


def usage_of(generation: Generation) -> answers.Usage:
    return answers.Usage(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        total_tokens=generation.total_tokens,
        prompt_tokens_details=answers.PromptTokensDetails(cached_tokens=generation.cached_tokens),
    )


class _OpenAIWriter:
    """What both kinds share: an id, a time, and a stream's usage at its end if it was asked for."""

    prefix: str
    streamed: type[answers.Completion | answers.ChatChunk]

    def __init__(self, *, include_usage: bool) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._include_usage = include_usage
        self._ended = 0

    def begin(self, generation: Generation) -> bytes:
        return b""

    def end(self, generation: Generation) -> bytes:
        if not self._include_usage:
            return answer.DONE
        last = self._event(generation, [], usage_of(generation), timings_of(generation))
        return last + answer.DONE

    def error(self, shown: Shown) -> bytes:
        return answer.event(shown.openai_body())

    def _chunk(self, generation: Generation, choice: answers.Choice | answers.ChunkChoice) -> bytes:
        """OpenAI sends a null in every event but the last when usage was asked for. The timings are
        in the last event that has choices, or else with the usage."""
        self._ended += choice.finish_reason is not None
        if self._include_usage:
            return self._event(generation, [choice], None)
        over = choice.finish_reason is not None and self._ended == generation.n
        timings = timings_of(generation) if over else msgspec.UNSET
        return self._event(generation, [choice], msgspec.UNSET, timings)

    def _event(
        self,
        generation: Generation,
        choices: list[Any],
        usage: answers.Usage | msgspec.UnsetType | None,
        timings: Timings | msgspec.UnsetType = msgspec.UNSET,
    ) -> bytes:
        return answer.event(
            self.streamed(
                id=self.id,
                created=self.created,
                model=generation.model,
                system_fingerprint=fingerprint_of(generation),
                choices=choices,
                usage=usage,
                timings=timings,
            )
        )


class CompletionWriter(_OpenAIWriter):
    """`text_completion` objects."""

    prefix = "cmpl"
    streamed = answers.Completion

    def __init__(self, *, include_usage: bool) -> None:
        super().__init__(include_usage=include_usage)
        self._logprobs: defaultdict[int, TextLogprobs] = defaultdict(TextLogprobs)

    def whole(self, generation: Generation, sequences: Sequence[Part]) -> answers.Completion:
        return answers.Completion(
            id=self.id,
            created=self.created,
            model=generation.model,
            system_fingerprint=fingerprint_of(generation),
            choices=[self._choice(sequence) for sequence in sequences],
            usage=usage_of(generation),
            timings=timings_of(generation),
        )

    def part(self, generation: Generation, part: Part) -> bytes:
        return self._chunk(generation, self._choice(part))

    def _choice(self, part: Part) -> answers.Choice:
        return answers.Choice(
            index=part.index,
            text=part.text,
            logprobs=self._logprobs[part.index].of(part.drawn) if part.drawn else None,
            finish_reason=part.reason or None,
        )


class ChatWriter(_OpenAIWriter):
    """`chat.completion` objects, and `chat.completion.chunk` ones while it streams."""

    prefix = "chatcmpl"
    streamed = answers.ChatChunk

    def __init__(self, *, include_usage: bool) -> None:
        super().__init__(include_usage=include_usage)
        self._opened: set[int] = set()

    def whole(self, generation: Generation, sequences: Sequence[Part]) -> answers.ChatCompletion:
        return answers.ChatCompletion(
            id=self.id,
            created=self.created,
            model=generation.model,
            system_fingerprint=fingerprint_of(generation),
            choices=[
                answers.ChatChoice(
                    index=sequence.index,
                    message=_message(sequence),
                    logprobs=chat_logprobs(sequence.drawn) if sequence.drawn else None,
                    finish_reason=sequence.reason,
                )
                for sequence in sequences
            ],
            usage=usage_of(generation),
            timings=timings_of(generation),
        )

    def part(self, generation: Generation, part: Part) -> bytes:
        choice = answers.ChunkChoice(
            index=part.index,
            delta=_delta(part),
            logprobs=chat_logprobs(part.drawn) if part.drawn else None,
            finish_reason=part.reason or None,
        )
        return self._opening(generation, part.index) + self._chunk(generation, choice)

    def _opening(self, generation: Generation, index: int) -> bytes:
        """The role comes once for each choice, first."""
        if index in self._opened:
            return b""
        self._opened.add(index)
        role = answers.Delta(role="assistant", content="")
        return self._chunk(generation, answers.ChunkChoice(index=index, delta=role))


def _message(sequence: Part) -> answers.AssistantMessage:
    if not sequence.calls:
        return answers.AssistantMessage(content=sequence.text)
    return answers.AssistantMessage(
        content=sequence.text or None,
        tool_calls=[
            requests.Call(
                id=call.id,
                function=requests.CalledFunction(name=call.name, arguments=call.arguments),
            )
            for call in sequence.calls
        ],
    )


def _delta(part: Part) -> answers.Delta:
    return answers.Delta(
        content=part.text or msgspec.UNSET,
        tool_calls=[_call_delta(call) for call in part.calls] or msgspec.UNSET,
    )


def _call_delta(call: CallPart) -> answers.CallDelta:
    return answers.CallDelta(
        index=call.index,
        id=call.id or msgspec.UNSET,
        type="function" if call.id else msgspec.UNSET,
        function=answers.FunctionDelta(name=call.name or msgspec.UNSET, arguments=call.arguments),
    )
