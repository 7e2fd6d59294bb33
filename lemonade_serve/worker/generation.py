"""One request inside a worker: from sampled tokens to events, and when it is over."""

from __future__ import annotations

import math
from collections.abc import Sequence as Some

from lemonade_serve.protocol.messages import (
    Echo,
    Event,
    Finished,
    FinishReason,
    Logprob,
    ResolvedParams,
    Token,
    Work,
)
from lemonade_serve.worker.engines.base import Group, Id, Sequence
from lemonade_serve.worker.guidance import GrammarMask
from lemonade_serve.worker.sampler import Draw, Drawing
from lemonade_serve.worker.text import Detokenizer, StopStrings
from lemonade_serve.worker.vocabulary import Vocabulary


class Answer:
    """All sequences of a request. `room` is how many tokens may follow its prompt in each."""

    def __init__(
        self,
        request: int,
        work: Work,
        prompt: Some[int],
        *,
        room: int,
        vocabulary: Vocabulary,
    ) -> None:
        params, eos_ids = work.params, vocabulary.eos_ids
        max_tokens = min(params.max_length, room)
        self._vocabulary = vocabulary
        self._request = request
        decode = vocabulary.decoder_of(work.prompt)
        self.tool_format = vocabulary.tool_format(work.prompt)
        self._generations = [
            Generation(
                Id(request, index),
                params,
                max_tokens=max_tokens,
                eos_ids=eos_ids,
                detokenizer=Detokenizer(decode, prompt),
            )
            for index in range(work.n)
        ]
        self._unfinished = work.n
        self._masks: Some[GrammarMask] = ()
        self._wanted = max_tokens
        self._echo = vocabulary.text_of(work.prompt) if work.echo else None
        self._unread = len(prompt)
        self.group = Group(
            prompt,
            max(max_tokens, 1),
            [
                Sequence(Id(request, index), Drawing(params, prompt, eos_ids, index=index))
                for index in range(work.n)
            ],
            scored=params.logprobs if work.echo else None,
            adapter=work.adapter,
        )

    def guide(self, masks: Some[GrammarMask]) -> None:
        """Before it begins: its sequences say what these allow."""
        self._masks = masks
        for sequence, mask in zip(self.group.sequences, masks, strict=True):
            sequence.drawing.mask = mask

    @property
    def over(self) -> bool:
        """Whether all its sequences have finished."""
        return not self._unfinished

    def begin(self) -> list[Event]:
        """What of the prompt is told at once."""
        if self._echo is None:
            return []
        if self.group.scored is None:
            return [Echo(self._request, self._echo)]
        return self.read(Draw(self.group.prompt[0], math.nan))

    def read(self, draw: Draw) -> list[Event]:
        """The event of the prompt's next token."""
        self._unread -= 1
        text = "" if self._unread else self._echo or ""
        return [Echo(self._request, text, self._logprobs(draw))]

    def push(self, index: int, draw: Draw, at: float) -> list[Event]:
        """The events of one more token of a sequence, sampled at `at`; the last of a sequence is a
        `Finished`. Of one that shall say nothing, the token is nobody's."""
        if not self._wanted:
            self._unfinished -= 1
            return [Finished(self._request, "", FinishReason.LENGTH, index)]
        over = self._masks[index].over if self._masks else None
        events = self._generations[index].push(draw.token, at, self._logprobs(draw), over=over)
        self._unfinished -= isinstance(events[-1], Finished)
        return events

    def _logprobs(self, draw: Draw) -> tuple[Logprob, ...]:
        if draw.logprob is None:
            return ()
        likely = ((draw.token, draw.logprob), *draw.top)
        words = self._vocabulary
        return tuple(
            Logprob(token, words.bytes_of(token), logprob, words.is_silent(token))
            for token, logprob in likely
        )


class Generation:
    """One sequence. Pure: takes tokens and times, returns events. The last event is a `Finished`.

    An end-of-sequence token ends it with `stop` unless `ignore_eos`; a stop string too, once
    `min_length` tokens are there; `max_length` tokens, or a full context, end it with `length`.
    With guidance an end-of-sequence token ends it only when that is over, which ends it too.
    """

    def __init__(
        self,
        id: Id,
        params: ResolvedParams,
        *,
        max_tokens: int,
        eos_ids: frozenset[int],
        detokenizer: Detokenizer,
    ) -> None:
        self._request, self._index = id
        self._max_tokens = max_tokens
        self._min_tokens = params.min_length
        self._eos_ids = frozenset() if params.ignore_eos else eos_ids
        self._detokenizer = detokenizer
        self._stops = StopStrings(params.stop)
        self._generated = 0

    def push(
        self,
        token: int,
        at: float,
        logprobs: tuple[Logprob, ...] = (),
        *,
        over: bool | None = None,
    ) -> list[Event]:
        """The events of one more token, sampled at `at`. `over`: whether guidance lets nothing
        follow; None: there is no guidance."""
        self._generated += 1
        if token in self._eos_ids and over is not False:
            return [self._token("", at, logprobs), self._finish(FinishReason.STOP)]
        text, stopped = self._pass_on(self._detokenizer.push(token))
        event = self._token(text, at, logprobs)
        if stopped:
            return [event, Finished(self._request, "", FinishReason.STOP, self._index)]
        if over:
            return [event, self._finish(FinishReason.STOP)]
        if self._generated == self._max_tokens:
            return [event, self._finish(FinishReason.LENGTH)]
        return [event]

    def _token(self, text: str, at: float, logprobs: tuple[Logprob, ...]) -> Token:
        return Token(self._request, text, at, self._index, logprobs)

    def _pass_on(self, text: str) -> tuple[str, bool]:
        if self._generated < self._min_tokens:
            return text, False
        return self._stops.push(text)

    def _finish(self, reason: FinishReason) -> Finished:
        text, stopped = self._pass_on(self._detokenizer.flush())
        if stopped:
            reason = FinishReason.STOP
        return Finished(self._request, text + self._stops.flush(), reason, self._index)
