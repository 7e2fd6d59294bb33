"""The real `openai` package against a real daemon and a real model."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import openai
import pytest

from tests.daemon import MODEL, Daemon

QUESTION = "In which city is the Eiffel Tower?"


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=32,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_chat_streams_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
            ],
            temperature=0,
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


class Chat:
    """A conversation at the default length, whose answers end at their first full stop."""

    def __init__(self, client: openai.OpenAI, subject: str) -> None:
        self._client = client
        self._messages = [{"role": "system", "content": f"You talk about {subject}. " * 20}]
        self._read = 0

    def turn(self) -> tuple[int, int]:
        """Tokens of the prompt that were read before, and how many of these were not read again."""
        self._messages.append({"role": "user", "content": "Go on, in a few words. " * 5})
        answer = self._client.chat.completions.create(
            model=MODEL,
            messages=self._messages,
            stop=[".", "!", "?", ","],  # type: ignore[arg-type]
        )
        self._messages.append({"role": "assistant", "content": answer.choices[0].message.content})  # type: ignore[dict-item]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        before, self._read = self._read, answer.usage.prompt_tokens
        return before, answer.usage.prompt_tokens_details.cached_tokens or 0


def test_conversations_side_by_side_reuse_what_the_model_has_read(client: openai.OpenAI) -> None:
    chats = [Chat(client, "lemons"), Chat(client, "the sea")]
    for chat in chats:
        chat.turn()
    for _ in range(3):
        for chat in chats:
            before, reused = chat.turn()
            assert reused >= before - 2


def test_the_asynchronous_client_completes(shared_daemon: Daemon) -> None:
    async def complete() -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(shared_daemon.socket))
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(
                base_url="http://daemon/api/v1", api_key="any", http_client=http
            )
            stream = await client.completions.create(
                model=MODEL, prompt="The capital of France is", stream=True, max_tokens=8, seed=1
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(complete())


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    def complete(seed: int) -> str:
        answer = client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=24, seed=seed, temperature=1.5
        )
        return answer.choices[0].text

    assert complete(7) == complete(7)
    assert len({complete(seed) for seed in range(4)}) > 1


class TestSeveralChoices:
    """Three ways to go on with one prompt."""

    WILD = {  # noqa: RUF012, of keywords for the client
        "model": MODEL,
        "prompt": "Once upon a time",
        "max_tokens": 16,
        "temperature": 1.5,
        "seed": 7,
    }

    def test_they_come_in_order_and_the_prompt_counts_once(self, client: openai.OpenAI) -> None:
        one = client.completions.create(**self.WILD)
        three = client.completions.create(**self.WILD, n=3)
        assert [choice.index for choice in three.choices] == [0, 1, 2]
        assert len({choice.text for choice in three.choices}) == 3
        assert one.usage is not None
        assert three.usage is not None
        assert three.usage.prompt_tokens == one.usage.prompt_tokens
        assert three.usage.completion_tokens <= 3 * 16
        assert three.usage.completion_tokens > one.usage.completion_tokens

    def test_the_same_seed_gives_the_same_three(self, client: openai.OpenAI) -> None:
        def texts(seed: int) -> list[str]:
            answer = client.completions.create(**{**self.WILD, "seed": seed}, n=3)
            return [choice.text for choice in answer.choices]

        assert texts(7) == texts(7) != texts(8)

    def test_a_stream_of_them_says_what_the_whole_says(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(**self.WILD, n=3)
        options = {"include_usage": True}
        *chunks, last = client.completions.create(
            **self.WILD, n=3, stream=True, stream_options=options
        )
        texts, reasons = ["", "", ""], {}
        for choice in (chunk.choices[0] for chunk in chunks):
            assert choice.index not in reasons
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
        assert texts == [choice.text for choice in whole.choices]
        assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
        assert (last.choices, last.usage.completion_tokens) == (
            [],
            whole.usage.completion_tokens if whole.usage else None,
        )

    def test_each_of_a_chat_has_a_role_first_and_a_reason_last(self, client: openai.OpenAI) -> None:
        said: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me a very short story."}],
            "max_tokens": 12,
            "seed": 1,
            "n": 3,
        }
        whole = client.chat.completions.create(**said)
        chunks = list(client.chat.completions.create(**said, stream=True))
        for index, expected in enumerate(whole.choices):
            own = [c.choices[0] for c in chunks if c.choices[0].index == index]
            assert [choice.delta.role for choice in own] == ["assistant", *[None] * (len(own) - 1)]
            assert "".join(c.delta.content or "" for c in own) == expected.message.content
            assert [c.finish_reason for c in own if c.finish_reason] == [expected.finish_reason]
            assert own[-1].finish_reason

    def test_they_end_each_at_its_own_time(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(
            **{**self.WILD, "max_tokens": 64}, n=4, stop=[".", ",", "!"]
        )
        assert len({len(choice.text) for choice in answer.choices}) > 1
        assert not [c for c in answer.choices if set(c.text) & set(".,!")]


class TestLogprobs:
    """What the model makes of its tokens, whatever the parameters."""

    PLAIN = {  # noqa: RUF012, of keywords for the client
        "model": MODEL,
        "prompt": "The capital of France is",
        "max_tokens": 8,
        "temperature": 0,
    }

    def test_a_completion_has_them_for_every_token(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(**self.PLAIN, logprobs=3)
        (choice,) = answer.choices
        told = choice.logprobs
        assert told is not None
        assert told.tokens is not None
        assert told.token_logprobs is not None
        assert told.top_logprobs is not None
        assert told.text_offset is not None
        assert answer.usage is not None
        assert len(told.tokens) == answer.usage.completion_tokens == 8
        assert "".join(told.tokens) == choice.text
        for token, logprob, likely, offset in zip(
            told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True
        ):
            assert choice.text[offset:].startswith(token)
            assert likely[token] == logprob == max(likely.values()) <= 0
            assert len(likely) == 3
            assert sum(map(math.exp, likely.values())) <= 1 + 1e-6

    def test_they_are_of_the_model_and_not_of_the_parameters(self, client: openai.OpenAI) -> None:
        def first(**said: Any) -> float:
            answer = client.completions.create(**{**self.PLAIN, **said}, logprobs=0)
            assert answer.choices[0].logprobs is not None
            assert answer.choices[0].logprobs.token_logprobs is not None
            return answer.choices[0].logprobs.token_logprobs[0]

        assert first(temperature=1.5, extra_body={"top_k": 1}) == pytest.approx(first(), abs=1e-4)

    def test_a_stream_brings_the_same(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(**self.PLAIN, logprobs=2)
        assert whole.choices[0].logprobs is not None
        chunks = client.completions.create(**self.PLAIN, logprobs=2, stream=True)
        told = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
        for name in ("tokens", "text_offset"):
            streamed = [one for part in told for one in getattr(part, name)]
            assert streamed == getattr(whole.choices[0].logprobs, name)

    def test_a_chat_has_the_bytes_of_every_token(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Repeat this: \U0001f34b\u4f60\u597d"}],
            temperature=0,
            max_tokens=12,
            logprobs=True,
            top_logprobs=2,
        )
        (choice,) = answer.choices
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert answer.usage is not None
        assert len(tokens) == answer.usage.completion_tokens
        assert all(len(token.top_logprobs) == 2 for token in tokens)
        assert all(token.logprob == token.top_logprobs[0].logprob for token in tokens)
        told = bytes(byte for token in tokens for byte in token.bytes or [])
        assert told.decode(errors="replace").startswith(choice.message.content or "nothing")

    def test_who_asks_for_none_gets_none(self, client: openai.OpenAI) -> None:
        assert client.completions.create(**self.PLAIN).choices[0].logprobs is None

    def test_likely_tokens_alone_are_refused(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x"}], top_logprobs=2
            )
        assert refused.value.param == "top_logprobs"


def test_a_bias_bans_a_token_and_forces_another(client: openai.OpenAI) -> None:
    def text(bias: dict[str, int]) -> str:
        answer = client.completions.create(
            model=MODEL,
            prompt="The capital of France is",
            max_tokens=3,
            temperature=0,
            logit_bias=bias,
        )
        return answer.choices[0].text

    assert text({"4649": 100}) == " France France France"
    assert "Paris" in text({})
    assert "Paris" not in text({"7042": -100, "2860": -100})  # " Paris" and " Par"


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"frequency_penalty": -2}]
)
def test_a_penalty_changes_what_is_said_again(
    client: openai.OpenAI, penalty: dict[str, Any]
) -> None:
    def text(**said: Any) -> str:
        answer = client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=48, temperature=0, **said
        )
        return answer.choices[0].text

    assert text(**penalty) == text(**penalty) != text()


def test_token_ids_are_a_prompt(client: openai.OpenAI) -> None:
    # "The capital of France is", as SmolLM2's tokenizer writes it.
    ids = [504, 3575, 282, 4649, 314]
    by_ids = client.completions.create(model=MODEL, prompt=ids, temperature=0, max_tokens=8)
    by_text = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=8
    )
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == 5
    nested = client.completions.create(model=MODEL, prompt=[ids], temperature=0, max_tokens=8)
    assert nested.choices[0].text == by_text.choices[0].text


def test_ignore_eos_and_min_tokens_go_on_past_the_end(client: openai.OpenAI) -> None:
    def tokens(**extra: object) -> int:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=40,
            extra_body=extra,
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    assert tokens() < 20
    assert tokens(ignore_eos=True) == 40
    assert 30 <= tokens(min_tokens=30) <= 40


def test_a_stop_string_is_not_in_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Count: 1, 2, 3, 4,", temperature=0, max_tokens=40, stop=[" 7", "zzz"]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "6" in answer.choices[0].text
    assert "7" not in answer.choices[0].text


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_of_the_package_s_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.completions.create(model="no/such-model", prompt="x")
    assert not_found.value.code == "model_not_found"
    assert not_found.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such-model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model=MODEL, prompt="x", temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.completions.create(model=MODEL, prompt="x", extra_body={"best_offer": 1})
    assert unknown.value.param == "best_offer"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=MODEL, prompt="word " * 9000)
    assert long.value.code == "context_length_exceeded"
    assert "8192" in long.value.message
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt=[10**6])
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="")


@pytest.mark.parametrize(
    "body",
    [
        {"n": 0},
        {"n": 129},
        {"n": 128, "max_tokens": 1000},
        {"best_of": 2},
        {"logprobs": 6},
        {"top_logprobs": 1},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"5": 101}},
        {"logit_bias": {"999999999": 1}},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -2.1},
        {"min_p": 1.1},
        {"store": True},
        {"prompt": [1, "mixed"]},
        {"stop": []},
        {"stop": ["x"] * 17},
        {"stop": "x" * 257},
        {"max_tokens": 0},
        {"prompt": ["x"] * 129},
        {"prompt": [["nested"]]},
        {"max_tokens": 0, "echo": False},
        {"echo": True, "suffix": "y"},
        {"suffix": "y"},
        {"top_p": 0},
        {"top_k": 1001},
        {"min_tokens": 5, "max_tokens": 4},
        {"stream_options": {"include_usage": True}},
        {"seed": "one"},
        {"repetition_penalty": 0},
    ],
)
def test_what_cannot_be_honoured_is_refused(client: openai.OpenAI, body: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="x", extra_body=body)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.param


def test_what_has_no_effect_here_is_accepted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        max_tokens=2,
        n=1,
        user="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
    )
    assert answer.choices[0].message.role == "assistant"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "data:,"}}],
        [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
        None,
    ],
)
def test_only_text_is_understood(client: openai.OpenAI, content: object) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": content}],  # type: ignore[misc, list-item]
        )
