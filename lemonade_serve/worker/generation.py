"""One request inside a worker: from sampled tokens to events, and when it is over."""

from __future__ import annotations

from lemonade_serve.protocol.messages import (
    Event,
    Finished,
    FinishReason,
    ResolvedParams,
    Token,
)
from lemonade_serve.worker.text import Detokenizer, StopStrings


class Generation:
    """Pure: takes tokens and times, returns events. The last event is a `Finished`.

    An end-of-sequence token ends it with `stop` unless `ignore_eos`; a stop string too, once
    `min_length` tokens are there; `max_length` tokens, or a full context, end it with `length`.
    """

    def __init__(
        self,
        request: int,
        params: ResolvedParams,
        *,
        max_tokens: int,
        eos_ids: frozenset[int],
        detokenizer: Detokenizer,
    ) -> None:
        self._request = request
        self._max_tokens = max_tokens
        self._min_tokens = params.min_length
        self._eos_ids = frozenset() if params.ignore_eos else eos_ids
        self._detokenizer = detokenizer
        self._stops = StopStrings(params.stop)
        self._generated = 0

    def push(self, token: int, at: float) -> list[Event]:
        """The events of one more token, sampled at `at`."""
        self._generated += 1
        if token in self._eos_ids:
            return [Token(self._request, "", at), self._finish(FinishReason.STOP)]
        text, stopped = self._pass_on(self._detokenizer.push(token))
        event = Token(self._request, text, at)
        if stopped:
            return [event, Finished(self._request, "", FinishReason.STOP)]
        if self._generated == self._max_tokens:
            return [event, self._finish(FinishReason.LENGTH)]
        return [event]

    def _pass_on(self, text: str) -> tuple[str, bool]:
        if self._generated < self._min_tokens:
            return text, False
        return self._stops.push(text)

    def _finish(self, reason: FinishReason) -> Finished:
        text, stopped = self._pass_on(self._detokenizer.flush())
        if stopped:
            reason = FinishReason.STOP
        return Finished(self._request, text + self._stops.flush(), reason)
