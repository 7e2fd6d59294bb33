"""Plain completions with their prompts, of many prompts, and with a suffix, by the real package."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types import CompletionChoice

from tests.daemon import MODEL, Daemon, eventually
from tests.scrape import Scrape

PROMPT = "The capital of France is"
IDS = [504, 3575, 282, 4649, 314]
"""The same, as SmolLM2's tokenizer writes it."""
TEXTS = ["Once upon a time", "🍋 ist", "The capital of France is"]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 4}
LONG = "One, two, three, four, five, six, seven. " * 6


def logprobs(choice: CompletionChoice) -> list[tuple[str, float | None]]:
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    return list(zip(told.tokens, told.token_logprobs, strict=True))


class TestEcho:
    @pytest.mark.parametrize("prompt", [PROMPT, IDS, "🍋 and 你好, e\u0301"])
    def test_the_prompt_comes_first(self, client: openai.OpenAI, prompt: str | list[int]) -> None:
        text = prompt if isinstance(prompt, str) else PROMPT
        plain = client.completions.create(**GREEDY, prompt=prompt, n=2)
        told = client.completions.create(**GREEDY, prompt=prompt, n=2, echo=True)
        assert [c.text for c in told.choices] == [text + c.text for c in plain.choices]
        assert told.usage is not None
        assert plain.usage is not None
        assert told.usage.completion_tokens == plain.usage.completion_tokens == 8

    def test_a_stream_begins_with_it(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(**GREEDY, prompt=PROMPT, echo=True, logprobs=1, n=2)
        chunks = list(
            client.completions.create(
                **GREEDY, prompt=PROMPT, echo=True, logprobs=1, n=2, stream=True
            )
        )
        for index, choice in enumerate(whole.choices):
            own = [c.choices[0] for c in chunks if c.choices[0].index == index]
            assert own[0].text == PROMPT
            assert "".join(piece.text for piece in own) == choice.text
            told = [one for piece in own if piece.logprobs for one in logprobs(piece)]
            assert told == logprobs(choice)

    def test_with_logprobs_the_prompt_s_tokens_have_theirs(self, client: openai.OpenAI) -> None:
        (choice,) = client.completions.create(
            **GREEDY, prompt=PROMPT, echo=True, logprobs=2
        ).choices
        told = choice.logprobs
        assert told is not None
        assert "".join(told.tokens or []) == choice.text
        values, likely = told.token_logprobs or [], told.top_logprobs or []
        assert (values[0], likely[0]) == (None, None)
        assert len(values) == len(likely) == len(IDS) + 4
        for token, value, among in zip(
            (told.tokens or [])[1:], values[1:], likely[1:], strict=True
        ):
            assert among[token] == value <= max(among.values()) <= 0
            assert sum(map(math.exp, among.values())) <= 1 + 1e-6
        for token, offset in zip(told.tokens or [], told.text_offset or [], strict=True):
            assert choice.text[offset:].startswith(token)

    def test_offsets_are_places_in_a_text_that_has_no_control_tokens(
        self, client: openai.OpenAI
    ) -> None:
        control = 1  # <|im_start|>
        prompt = [control, control, *IDS, control]
        asked = {**GREEDY, "max_tokens": 0, "prompt": prompt, "echo": True}
        (choice,) = client.completions.create(**asked, logprobs=1).choices
        told = choice.logprobs
        assert told is not None
        assert choice.text == PROMPT
        assert (told.text_offset or [])[:3] == [0, 0, 0]
        assert (told.text_offset or [])[-1] == len(PROMPT)

    def test_nothing_is_generated_where_nothing_is_wanted(self, client: openai.OpenAI) -> None:
        """As lm-evaluation-harness asks for the likelihood of a text."""
        asked = {**GREEDY, "max_tokens": 0, "prompt": IDS, "echo": True}
        answer = client.completions.create(**asked, logprobs=1)
        (choice,) = answer.choices
        assert (choice.text, choice.finish_reason) == (PROMPT, "length")
        assert [token for token, _ in logprobs(choice)] == [
            "The",
            " capital",
            " of",
            " France",
            " is",
        ]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 0)
        one = client.completions.create(**{**asked, "max_tokens": 1}, logprobs=1).choices[0]
        assert logprobs(one)[:-1] == logprobs(choice)
        assert client.completions.create(**asked).choices[0].text == PROMPT

    def test_without_an_echo_there_must_be_something(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**{**GREEDY, "max_tokens": 0}, prompt=PROMPT)
        assert refused.value.param == "max_tokens"

    def test_a_prompt_that_is_scored_holds_no_stream_up(self, shared_daemon: Daemon) -> None:
        story = {**GREEDY, "prompt": "Once", "max_tokens": 600, "ignore_eos": True}
        scored = {**GREEDY, "prompt": LONG, "max_tokens": 0, "echo": True, "logprobs": 0}
        stream = shared_daemon.events("/v1/completions", story)
        next(stream)
        with shared_daemon.client.stream(
            "POST", "/v1/completions", json={**scored, "stream": True}
        ) as long:
            lines = long.iter_lines()
            for _ in range(20):
                next(stream)  # goes on while the prompt is read
            assert any('"text":"One, two' in line for line in lines)
        stream.close()
        eventually(lambda: not shared_daemon.model()["is_busy"])


class TestManyPrompts:
    def test_each_has_its_n_choices_in_order(self, client: openai.OpenAI) -> None:
        alone = [client.completions.create(**GREEDY, prompt=text, n=2) for text in TEXTS]
        answer = client.completions.create(**GREEDY, prompt=TEXTS, n=2)
        assert [choice.index for choice in answer.choices] == list(range(6))
        assert [c.text for c in answer.choices] == [c.text for a in alone for c in a.choices]
        usages = [a.usage for a in alone if a.usage]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == sum(usage.prompt_tokens for usage in usages)
        assert answer.usage.completion_tokens == 24

    def test_they_stream_side_by_side(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(**GREEDY, prompt=TEXTS, echo=True)
        chunks = list(
            client.completions.create(
                **GREEDY,
                prompt=TEXTS,
                echo=True,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        for choice in whole.choices:
            own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
            assert "".join(piece.text for piece in own) == choice.text
            assert [piece.finish_reason for piece in own if piece.finish_reason] == ["length"]
        assert chunks[-1].usage is not None
        assert whole.usage is not None
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens

    def test_token_ids_may_be_many_too(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(**GREEDY, prompt=[IDS, IDS[:2], IDS])
        assert answer.choices[0].text == answer.choices[2].text != answer.choices[1].text

    def test_more_than_there_are_slots_wait_for_each_other(self, client: openai.OpenAI) -> None:
        many = [f"{n} and" for n in range(40)]
        answer = client.completions.create(**{**GREEDY, "max_tokens": 1}, prompt=many)
        assert len(answer.choices) == 40

    @pytest.mark.parametrize(
        ("prompts", "code"),
        [
            (["fine", ""], "invalid_request_error"),
            (["fine", "word " * 9000], "context_length_exceeded"),
            ([[1], [10**6]], "invalid_request_error"),
            (["fine"] * 129, "invalid_request_error"),
        ],
    )
    def test_one_that_cannot_be_fails_the_request(
        self, shared_daemon: Daemon, client: openai.OpenAI, prompts: Any, code: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**GREEDY, prompt=prompts)
        assert (refused.value.param, refused.value.code) == ("prompt", code)
        eventually(lambda: not shared_daemon.model()["is_busy"])

    def test_leaving_stops_them_all(self, shared_daemon: Daemon, client: openai.OpenAI) -> None:
        endless = {**GREEDY, "max_tokens": 2000, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(**endless, prompt=TEXTS, stream=True)
        next(iter(stream))
        assert shared_daemon.model()["is_busy"]
        stream.close()
        eventually(lambda: not shared_daemon.model()["is_busy"])
        eventually(lambda: Scrape(shared_daemon).total("kv_cache_usage_ratio") == 0)


def test_a_suffix_is_for_models_that_were_made_for_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**GREEDY, prompt="def f(", suffix="return x")
    assert refused.value.param == "suffix"


def test_best_of_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**GREEDY, prompt="x", best_of=2)
    assert refused.value.param == "best_of"


def test_several_ways_cost_one_prefill(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    daemon.use(MODEL)

    def prompt_tokens(n: int) -> tuple[float, int]:
        """So many more are counted as read, and are the answer's own."""
        before = Scrape(daemon).total("prompt_tokens_total")
        answer = daemon.complete(MODEL, prompt=f"{n} {LONG}", n=n).json()
        counted = Scrape(daemon).total("prompt_tokens_total") - before
        return counted, answer["usage"]["prompt_tokens"]

    one, three = prompt_tokens(1), prompt_tokens(3)
    assert one[0] == one[1] == three[0] == three[1] > 80
