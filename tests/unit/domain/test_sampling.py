"""Which layer decides a parameter, and what a parameter may be."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemonade_serve import errors
from lemonade_serve.api.openai import requests as openai
from lemonade_serve.api.v0 import schemas as v0
from lemonade_serve.domain.sampling import Options, resolve
from lemonade_serve.protocol.messages import ResolvedParams

Bounds = tuple[str, list[object], list[object]]
"""A field, what it may be, and what it may not."""

BOUNDS: list[Bounds] = [
    ("temperature", [0, 0.0, 2], [-0.1, 2.1, "1", True]),
    ("top_p", [0.01, 1], [0, -1, 1.01, "1"]),
    ("top_k", [0, 1, 1000], [-1, 1001, 1.5, "50"]),
    ("min_p", [0, 0.05, 1], [-0.1, 1.01, "0"]),
    ("repetition_penalty", [0.01, 1, 2], [0, -1, 2.01]),
    ("presence_penalty", [-2, 0, 1.5, 2], [-2.01, 2.01, "1"]),
    ("frequency_penalty", [-2, 0, 1.5, 2], [-2.01, 2.01, "1"]),
    ("seed", [0, -1, 2**63 - 1, -(2**63)], [2**63, 1.5, "7"]),
    ("stop", ["x", ["x"], ["x"] * 16, "x" * 256], ["", [], [""], ["x"] * 17, "x" * 257, 7]),
    ("ignore_eos", [True, False], [1, "yes"]),
]
SPEC_BOUNDS: list[Bounds] = [
    *BOUNDS,
    ("min_length", [0, 100], [-1, 1.5]),
    ("max_length", [1, 10**9], [0, -1]),
    ("do_sample", [True, False], [1, "no"]),
]
OPENAI_BOUNDS: list[Bounds] = [
    *BOUNDS,
    ("min_tokens", [0, 100], [-1]),
    ("max_tokens", [1, 10**9], [-1]),
    ("n", [1, 2, 128], [0, 129, 1.5]),
    (
        "logit_bias",
        [{}, {"0": -100}, {"5": 100, "49151": 0.5}],
        [{"x": 1}, {"05": 1}, {"-1": 1}, {"1.0": 1}, {"9" * 10: 1}, {"5": 101}, {"5": "1"}, [5]],
    ),
    ("store", [False], [True]),
]
TEXT_BOUNDS: list[Bounds] = [*OPENAI_BOUNDS, ("logprobs", [0, 5], [-1, 6, True])]
CHAT_BOUNDS: list[Bounds] = [
    *OPENAI_BOUNDS,
    ("logprobs", [True, False], [1]),
    ("top_logprobs", [0, 20], [-1, 21, True]),
    ("max_tokens", [1], [0]),
    ("max_completion_tokens", [1], [0]),
]


def text_body(**said: object) -> openai.CompletionRequest:
    return msgspec.convert({"prompt": "x", **said}, openai.CompletionRequest)


def chat_body(**said: object) -> openai.ChatRequest:
    messages = [{"role": "user", "content": "x"}]
    return msgspec.convert({"messages": messages, **said}, openai.ChatRequest)


def rows(bounds: list[Bounds], good: bool) -> list[object]:
    return [
        pytest.param(name, value, id=f"{name}={value!r:.20}")
        for name, fine, wrong in bounds
        for value in (fine if good else wrong)
    ]


@pytest.mark.parametrize(("name", "value"), rows(SPEC_BOUNDS, good=True))
def test_the_specifications_body_takes(name: str, value: object) -> None:
    body = msgspec.convert({"prompt": "x", name: value}, v0.CompletionBody)
    assert getattr(body, name) == value


@pytest.mark.parametrize(("name", "value"), rows(SPEC_BOUNDS, good=False))
def test_the_specifications_body_refuses(name: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({"prompt": "x", name: value}, v0.CompletionBody)


@pytest.mark.parametrize(("name", "value"), rows(TEXT_BOUNDS, good=True))
def test_openais_body_takes(name: str, value: object) -> None:
    assert getattr(text_body(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), rows(TEXT_BOUNDS, good=False))
def test_openais_body_refuses(name: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=name):
        text_body(**{name: value})


@pytest.mark.parametrize(("name", "value"), rows(CHAT_BOUNDS, good=True))
def test_openais_chat_body_takes(name: str, value: object) -> None:
    assert getattr(chat_body(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), rows(CHAT_BOUNDS, good=False))
def test_openais_chat_body_refuses(name: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=name):
        chat_body(**{name: value})


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (v0.CompletionBody, "n"),
        (v0.CompletionBody, "logit_bias"),
        (v0.CompletionBody, "logprobs"),
        (v0.ParamsBody, "logit_bias"),
        (v0.ParamsBody, "logprobs"),
        (openai.CompletionRequest, "best_of"),
        (openai.CompletionRequest, "top_logprobs"),
        (openai.ChatRequest, "top_a"),
    ],
)
def test_a_parameter_that_is_not_honoured_is_refused_by_name(schema: type, name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"unknown field `{name}`"):
        msgspec.convert({name: 1}, schema)


def test_openais_words_become_ours() -> None:
    said = {"stop": "\n", "seed": 5, "top_k": 3, "min_p": 0.1, "logit_bias": {"5": -100, "7": 0.5}}
    body = text_body(min_tokens=2, max_tokens=9, presence_penalty=1, frequency_penalty=-1, **said)
    params = resolve(body.options())
    assert (params.min_length, params.max_length) == (2, 9)
    assert (params.stop, params.seed, params.top_k, params.min_p) == (("\n",), 5, 3, 0.1)
    assert (params.presence_penalty, params.frequency_penalty) == (1, -1)
    assert params.logit_bias == ((5, -100.0), (7, 0.5))


@pytest.mark.parametrize(
    ("said", "limit"),
    [({}, 2048), ({"max_tokens": 9}, 9), ({"max_tokens": 9, "max_completion_tokens": 3}, 3)],
)
def test_a_chats_limit_has_two_names(said: dict[str, object], limit: int) -> None:
    assert resolve(chat_body(**said).options()).max_length == limit


@pytest.mark.parametrize(
    ("body", "logprobs"),
    [
        (text_body, None),
        (lambda: text_body(logprobs=0), 0),
        (lambda: text_body(logprobs=5), 5),
        (chat_body, None),
        (lambda: chat_body(logprobs=False), None),
        (lambda: chat_body(logprobs=True), 0),
        (lambda: chat_body(logprobs=True, top_logprobs=20), 20),
    ],
)
def test_logprobs_are_computed_for_those_who_ask(
    body: Callable[[], openai.CompletionRequest | openai.ChatRequest], logprobs: int | None
) -> None:
    assert resolve(body().options()).logprobs == logprobs


def test_nothing_said_means_the_specifications_defaults() -> None:
    assert resolve() == ResolvedParams()
    params = resolve(Options())
    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.95, 50)
    assert (params.min_length, params.max_length, params.do_sample) == (0, 2048, True)
    assert (params.repetition_penalty, params.seed, params.stop) == (1.0, None, ())
    assert (params.min_p, params.presence_penalty, params.frequency_penalty) == (0, 0, 0)
    assert (params.logit_bias, params.logprobs) == ((), None)


def test_the_last_layer_that_says_something_wins() -> None:
    params = resolve(
        Options(temperature=0.1, top_k=1, stop="a"),
        Options(temperature=0.2, top_k=None),
        Options(temperature=0.0, stop=["b", "c"]),
    )
    assert (params.temperature, params.top_k, params.stop) == (0.0, 1, ("b", "c"))


def test_zero_and_false_are_said_too() -> None:
    params = resolve(
        Options(top_k=5, do_sample=True, ignore_eos=True, min_length=3),
        Options(top_k=0, do_sample=False, ignore_eos=False, min_length=0),
    )
    assert (params.top_k, params.do_sample, params.ignore_eos, params.min_length) == (
        0,
        False,
        False,
        0,
    )


def test_layers_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(
        errors.InvalidRequest, match=r"min_length \(9\) is over max_length"
    ) as raised:
        resolve(Options(max_length=8), Options(min_length=9))
    assert raised.value.param == "min_length"


def test_min_length_may_be_max_length() -> None:
    assert resolve(Options(min_length=8, max_length=8)).min_length == 8


layers = st.lists(
    st.builds(
        Options,
        temperature=st.none() | st.floats(0, 2),
        top_k=st.none() | st.integers(0, 1000),
        seed=st.none() | st.integers(-5, 5),
    ),
    max_size=4,
)


@given(layers, layers)
def test_later_layers_win_however_many_there_are(first: list[Options], last: list[Options]) -> None:
    params = resolve(*first, *last)
    said = [layer.temperature for layer in [*first, *last] if layer.temperature is not None]
    assert params.temperature == (said[-1] if said else 0.7)
