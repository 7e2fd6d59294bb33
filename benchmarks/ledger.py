"""Tokens on both sides of HTTP: what clients were told, and what `/metrics` counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.streams import NO_TEXT, Answer

_PREFIX = "lemonade_"


class Counted(NamedTuple):
    """What the daemon counted of one model. `ok_…`: of requests that came to their end; the rest is
    of all."""

    ok: int = 0
    cancelled: int = 0
    failed: int = 0
    ok_prompt_tokens: int = 0
    ok_generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0

    def since(self, before: Counted) -> Counted:
        return Counted(*(now - then for now, then in zip(self, before, strict=True)))


def read_metrics(exposition: str, model: str) -> Counted:
    """From Prometheus' text format."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.labels.get("model") == model:
                name = sample.name.removeprefix(_PREFIX)
                name = f"{name} {sample.labels['outcome']}" if "outcome" in sample.labels else name
                sums[name] = sums.get(name, 0) + sample.value

    def of(name: str) -> int:
        return round(sums.get(name, 0))

    return Counted(
        ok=of("requests_total ok"),
        cancelled=of("requests_total cancelled"),
        failed=of("requests_total error") + of("requests_total rejected"),
        ok_prompt_tokens=of("request_prompt_tokens_sum"),
        ok_generated_tokens=of("request_generated_tokens_sum"),
        prompt_tokens=of("prompt_tokens_total"),
        cached_tokens=of("cached_prompt_tokens_total"),
        generated_tokens=of("generated_tokens_total"),
    )


class Ledger:
    """Of the clients of one model. A client that left was told no usage: what its request took is
    only known to lie between what it saw and what it asked for."""

    def __init__(self) -> None:
        self.finished = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.left = 0
        self.left_prompt_tokens = 0
        self.left_max_tokens = 0
        self.left_pieces = 0
        self.faults: list[str] = []

    def leave(self, answer: Answer, *, prompt_tokens: int, max_tokens: int) -> None:
        """A client hung up."""
        self.left += 1
        self.left_prompt_tokens += prompt_tokens
        self.left_max_tokens += max_tokens
        self.left_pieces += len(answer.times)

    def finish(
        self, answer: Answer, *, prompt_tokens: int, max_tokens: int, stops: Sequence[str]
    ) -> None:
        """A client read its answer to the end; what is wrong with it is a fault."""
        self.finished += 1
        self.prompt_tokens += answer.prompt_tokens
        self.cached_tokens += answer.cached_tokens
        self.completion_tokens += answer.completion_tokens
        if fault := _fault(answer, prompt_tokens, max_tokens, stops):
            self.faults.append(fault)

    def differences(self, counted: Counted) -> list[str]:
        """Where the two sides do not agree. An answer that was whole when its client left counts as
        ok there, and a client may leave before it was heard at all."""
        late = counted.ok - self.finished
        whole_when_left = min(late, self.left)
        prompt_room = self.left_prompt_tokens if whole_when_left else 0
        room = self.left_max_tokens if whole_when_left else 0
        told = self.completion_tokens
        bounds: Mapping[str, tuple[int, int, int]] = {
            "requests that came to their end": (0, late, self.left),
            "requests that were cancelled": (0, counted.cancelled, self.left - late),
            "requests that failed": (0, counted.failed, 0),
            "prompt tokens of ended requests": _within(
                self.prompt_tokens, counted.ok_prompt_tokens, prompt_room
            ),
            "generated tokens of ended requests": _within(told, counted.ok_generated_tokens, room),
            "prompt tokens": _within(
                self.prompt_tokens, counted.prompt_tokens, self.left_prompt_tokens
            ),
            "cached tokens": _within(
                self.cached_tokens, counted.cached_tokens, self.left_prompt_tokens
            ),
            "generated tokens": (
                told + self.left_pieces,
                counted.generated_tokens,
                told + self.left_max_tokens,
            ),
        }
        return [
            f"{name}: {value}, and not {least} to {most}"
            for name, (least, value, most) in bounds.items()
            if not least <= value <= most
        ]


def _within(told: int, counted: int, room: int) -> tuple[int, int, int]:
    return told, counted, told + room


def _fault(answer: Answer, prompt_tokens: int, max_tokens: int, stops: Sequence[str]) -> str:
    if answer.problem not in ("", NO_TEXT):
        return answer.problem
    reason, text = answer.reasons.get(0, ""), answer.texts.get(0, "")
    checks = {
        f"{answer.prompt_tokens} prompt tokens, not {prompt_tokens}": answer.prompt_tokens
        == prompt_tokens,
        f"{answer.completion_tokens} tokens of {max_tokens}": 1
        <= answer.completion_tokens
        <= max_tokens,
        f"more cached tokens than {prompt_tokens}": answer.cached_tokens <= prompt_tokens,
        f"finish_reason {reason!r}": reason in ("stop", "length"),
        f"ended by its length after {answer.completion_tokens} of {max_tokens} tokens": reason
        != "length"
        or answer.completion_tokens == max_tokens,
        "a stop string in the text": not any(stop in text for stop in stops),
    }
    return next((fault for fault, passed in checks.items() if not passed), "")
