"""Generations as responses, streamed and whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from msgspec import structs

from lemonade_serve.api import answer
from lemonade_serve.api.answer import Part
from lemonade_serve.api.errors import Shown
from lemonade_serve.api.openai.answers import DrawnToken
from lemonade_serve.api.openai.logprobs import chat_logprobs
from lemonade_serve.api.responses import events, schemas
from lemonade_serve.api.responses.output import CallItem, Item, MessageItem, shown
from lemonade_serve.domain.completion import Generation
from lemonade_serve.domain.tools import CallPart

_CUT = "length"
"""Why an answer ended that is not complete."""


class ResponseWriter:
    """Fills in `blank`, and gives it to `keep` when the generation came to its end."""

    def __init__(self, blank: schemas.Response, keep: Callable[[schemas.Response], None]) -> None:
        self._blank = blank
        self._keep = keep
        self._items: list[Item] = []
        self._open: Item | None = None
        """The last item, if it is not done."""
        self._call: int | None = None
        """The call that is open, as the parts of calls count them."""
        self._reason = ""
        self._sent = 0

    def whole(self, generation: Generation, sequences: Sequence[Part]) -> schemas.Response:
        (only,) = sequences
        for _ in (*self._beginning(generation), *self._more(only), *self._closing()):
            pass  # the events of a stream, which nobody reads here
        return self._finish(generation)

    def begin(self, generation: Generation) -> bytes:
        return self._written(self._beginning(generation))

    def part(self, generation: Generation, part: Part) -> bytes:
        return self._written(self._more(part))

    def end(self, generation: Generation) -> bytes:
        closing = self._written(self._closing())
        response = self._finish(generation)
        return closing + self._written([_of_response(response.status, response)])

    def error(self, shown_: Shown) -> bytes:
        detail = shown_.responses_body().error
        failed = structs.replace(
            self._blank,
            status="failed",
            output=shown(self._items, "incomplete" if self._open else "completed"),
            error=schemas.ResponseError(code=_word(shown_.status), message=shown_.message),
        )
        error = events.ErrorEvent(
            code=detail.code, message=detail.message, param=detail.param, error=detail
        )
        return self._written([_of_response("failed", failed), error])

    def _written(self, made: Iterable[events.Event]) -> bytes:
        return b"".join(map(self._numbered, made))

    def _numbered(self, event: events.Event) -> bytes:
        number, self._sent = self._sent, self._sent + 1
        return answer.event(structs.replace(event, sequence_number=number), event.type)

    def _beginning(self, generation: Generation) -> Iterator[events.Event]:
        self._blank = structs.replace(self._blank, model=generation.model)
        yield _of_response("created", self._blank)
        yield _of_response("in_progress", self._blank)

    def _more(self, part: Part) -> Iterator[events.Event]:
        self._reason = part.reason or self._reason
        if part.text:
            yield from self._text(part)
        elif not part.calls and isinstance(self._open, MessageItem):
            self._open.add("", part.drawn)
        for call in part.calls:
            yield from self._call_part(call)

    def _text(self, part: Part) -> Iterator[events.Event]:
        if isinstance(self._open, MessageItem):
            message = self._open
        else:
            message = MessageItem()
            yield from self._added(message)
        message.add(part.text, part.drawn)
        yield events.TextDelta(
            item_id=message.id,
            output_index=self._index,
            delta=part.text,
            logprobs=_streamed(chat_logprobs(part.drawn).content),
        )

    def _call_part(self, part: CallPart) -> Iterator[events.Event]:
        if isinstance(self._open, CallItem) and self._call == part.index:
            call = self._open
        else:
            call = CallItem(part.id, part.name)
            yield from self._added(call)
            self._call = part.index
        if part.arguments:
            call.add(part.arguments)
            yield events.ArgumentsDelta(
                item_id=call.id, output_index=self._index, delta=part.arguments
            )

    def _added(self, item: Item) -> Iterator[events.Event]:
        """What comes after an item shows that it is complete."""
        yield from self._done("completed")
        self._items.append(item)
        self._open = item
        yield events.ItemEvent(
            type="response.output_item.added",
            output_index=self._index,
            item=item.shown("in_progress"),
        )
        if isinstance(item, MessageItem):
            yield events.PartEvent(
                type="response.content_part.added",
                item_id=item.id,
                output_index=self._index,
                part=schemas.OutputText(text=""),
            )

    def _done(self, status: schemas.ItemStatus) -> Iterator[events.Event]:
        match self._open:
            case None:
                return
            case MessageItem() as item:
                part = item.part()
                yield events.TextDone(
                    item_id=item.id,
                    output_index=self._index,
                    text=part.text,
                    logprobs=_streamed(part.logprobs),
                )
                yield events.PartEvent(
                    type="response.content_part.done",
                    item_id=item.id,
                    output_index=self._index,
                    part=part,
                )
            case CallItem() as item:
                yield events.ArgumentsDone(
                    item_id=item.id, output_index=self._index, arguments=item.arguments
                )
        yield events.ItemEvent(
            type="response.output_item.done", output_index=self._index, item=item.shown(status)
        )
        self._open = None

    def _closing(self) -> Iterator[events.Event]:
        """An answer that says nothing says it in a message."""
        if not self._items:
            yield from self._added(MessageItem())
        yield from self._done(self._status)

    def _finish(self, generation: Generation) -> schemas.Response:
        status = self._status
        response = structs.replace(
            self._blank,
            status=status,
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details=None if status == "completed" else schemas.IncompleteDetails(),
            output=shown(self._items, status),
            usage=_usage(generation),
        )
        self._keep(response)
        return response

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._reason == _CUT else "completed"

    @property
    def _index(self) -> int:
        return len(self._items) - 1


def _of_response(kind: str, response: schemas.Response) -> events.ResponseEvent:
    return events.ResponseEvent(type=f"response.{kind}", response=response)


def _usage(generation: Generation) -> schemas.ResponseUsage:
    return schemas.ResponseUsage(
        input_tokens=generation.prompt_tokens,
        input_tokens_details=schemas.InputTokensDetails(cached_tokens=generation.cached_tokens),
        output_tokens=generation.completion_tokens,
        total_tokens=generation.total_tokens,
    )


def _streamed(tokens: Sequence[DrawnToken]) -> list[events.StreamedToken]:
    return [
        events.StreamedToken(
            token=drawn.token,
            logprob=drawn.logprob,
            top_logprobs=[
                events.StreamedLikely(token=likely.token, logprob=likely.logprob)
                for likely in drawn.top_logprobs
            ],
        )
        for drawn in tokens
    ]


def _word(status: int) -> Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]:
    """The nearest of those that OpenAI's clients know."""
    if status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if status == 400 else "server_error"
