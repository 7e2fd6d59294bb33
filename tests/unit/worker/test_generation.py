"""From sampled tokens to events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lemonade_serve.protocol.messages import (
    Event,
    Finished,
    FinishReason,
    ResolvedParams,
    Token,
)
from lemonade_serve.worker.engines.base import Id
from lemonade_serve.worker.generation import Generation
from lemonade_serve.worker.text import Detokenizer

EOS = 0


def decode(tokens: Sequence[int]) -> str:
    """One token, one letter; the end of sequence has no text."""
    return "".join(chr(token) for token in tokens if token != EOS)


def generation(*, max_tokens: int = 100, **params: object) -> Generation:
    return Generation(
        Id(7, 0),
        ResolvedParams(**params),  # type: ignore[arg-type]
        max_tokens=max_tokens,
        eos_ids=frozenset({EOS}),
        detokenizer=Detokenizer(decode, [ord("p")]),
    )


def pushed(generation: Generation, tokens: str | list[int]) -> list[Event]:
    ids = [ord(letter) for letter in tokens] if isinstance(tokens, str) else tokens
    return [event for n, token in enumerate(ids) for event in generation.push(token, float(n))]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token | Finished))


def test_each_token_is_an_event_with_its_time() -> None:
    assert pushed(generation(), "ab") == [Token(7, "a", 0.0), Token(7, "b", 1.0)]


def test_the_end_of_sequence_counts_as_a_token_and_has_no_text() -> None:
    events = pushed(generation(), [ord("a"), EOS])
    assert events[1:] == [Token(7, "", 1.0), Finished(7, "", FinishReason.STOP)]


def test_ignoring_the_end_of_sequence_goes_on() -> None:
    events = pushed(generation(ignore_eos=True, max_length=3), [ord("a"), EOS, ord("b")])
    assert text(events) == "ab"
    assert not any(isinstance(event, Finished) for event in events)


def test_the_last_token_that_is_allowed_ends_it_with_length() -> None:
    events = pushed(generation(max_tokens=2), "ab")
    assert events[-2:] == [Token(7, "b", 1.0), Finished(7, "", FinishReason.LENGTH)]


def test_an_end_of_sequence_at_the_bound_is_a_stop() -> None:
    events = pushed(generation(max_tokens=1), [EOS])
    assert events[-1] == Finished(7, "", FinishReason.STOP)


def test_a_stop_string_ends_it_and_is_not_sent() -> None:
    events = pushed(generation(stop=("xyz",)), "abxyz")
    assert text(events) == "ab"
    assert events[-1] == Finished(7, "", FinishReason.STOP)


def test_a_stop_string_at_the_bound_is_a_stop() -> None:
    events = pushed(generation(stop=("xy",), max_tokens=2), "xy")
    assert events[-1] == Finished(7, "", FinishReason.STOP)


def test_what_only_looked_like_a_stop_string_is_sent_at_the_end() -> None:
    events = pushed(generation(stop=("xyz",), max_tokens=3), "axy")
    assert events[-1] == Finished(7, "xy", FinishReason.LENGTH)
    events = pushed(generation(stop=("xyz",)), [ord("x"), EOS])
    assert events[-1] == Finished(7, "x", FinishReason.STOP)


def test_a_stop_string_counts_only_from_min_length_on() -> None:
    for said in ("xxax", "xxx"):
        events = pushed(generation(stop=("x",), min_length=3), said)
        assert text(events) == said[:-1]
        assert events[-1] == Finished(7, "", FinishReason.STOP)


def test_half_a_character_at_the_end_is_sent_marked() -> None:
    def undecided(tokens: Sequence[int]) -> str:
        return (
            decode(tokens)[:-1] + "\ufffd" if tokens and tokens[-1] == ord("h") else decode(tokens)
        )

    cut = Generation(
        Id(7, 0),
        ResolvedParams(),
        max_tokens=2,
        eos_ids=frozenset({EOS}),
        detokenizer=Detokenizer(undecided),
    )
    events = pushed(cut, "ah")
    assert events[-2:] == [Token(7, "", 1.0), Finished(7, "\ufffd", FinishReason.LENGTH)]


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
def test_a_finish_is_the_last_event_and_the_only_one(reason: FinishReason) -> None:
    tokens = [ord("a"), ord("b"), EOS if reason is FinishReason.STOP else ord("c")]
    events = pushed(generation(max_tokens=3), tokens)
    assert [type(event) for event in events] == [Token, Token, Token, Finished]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is reason
