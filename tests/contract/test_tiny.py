"""The tiny checkpoints are whole ones: whoever runs them says the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Load, ResolvedParams
from lemonade_serve.worker.engines import base
from lemonade_serve.worker.engines.base import Broken, Engine, Group, Id, Sampled, Scored
from lemonade_serve.worker.engines.cache import KvCache
from lemonade_serve.worker.engines.choice import examine
from lemonade_serve.worker.engines.opening import open_engine
from lemonade_serve.worker.engines.runner import Runner
from lemonade_serve.worker.sampler import Draw, Drawing
from tests import tiny
from tests.graphs import HEAD_SIZE, Plan

PROMPT = [5, 100, 20, 511, 7, 300, 41, 8, 90, 250, 77, 19]
TOKENS = 12

PLANS = [
    Plan(),
    Plan(positions=True),
    Plan(dtype="float16"),
    Plan(dtype="float16", positions=True, bits=4),
    Plan(bits=4, accuracy_level=4, pruned=True),
    Plan(bits=8, accuracy_level=4, positions=True, layers=3),
    Plan(window=8),
    Plan(grouped=False),
    Plan(grouped=False, dtype="float16"),
]


def said_by_onnxruntime(directory: Path, plan: Plan) -> list[int]:
    """With an empty past at every step: nothing is remembered."""
    session = ort.InferenceSession(
        str(directory / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    past = np.zeros((1, plan.kv_heads, 0, HEAD_SIZE), plan.dtype)
    tokens = list(PROMPT)
    for _ in range(TOKENS):
        ids = np.array([tokens])
        fed = {value.name: past for value in session.get_inputs()}
        fed |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if plan.takes_positions:
            fed["position_ids"] = np.arange(len(tokens))[None]
        (logits,) = session.run(["logits"], fed)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


def load(directory: Path, engine: str = "auto", *, context_length: int = 64) -> Engine:
    made, _ = open_engine(
        Load(
            path=str(directory),
            execution_provider="cpu",
            threads=1,
            sequence_slots=4,
            kv_cache_tokens=4 * context_length,
            prefill_chunk_tokens=16,
            turn_timeout_s=1,
            engine=engine,
        ),
        context_length=context_length,
    )
    return made


def group(
    request: int,
    prompt: list[int],
    *,
    n: int = 1,
    logprobs: int | None = None,
    tokens: int = TOKENS,
    scored: int | None = None,
) -> Group:
    params = ResolvedParams(temperature=0.0, logprobs=logprobs)
    sequences = [
        base.Sequence(Id(request, index), Drawing(params, prompt, frozenset()))
        for index in range(n)
    ]
    return Group(prompt, tokens, sequences, scored)


def said_by(
    engine: Engine, prompts: dict[int, list[int]], tokens: int = TOKENS
) -> dict[int, list[int]]:
    """By each of the prompts, the next of which joins with every step."""
    waiting, said = list(prompts.items()), {request: list[int]() for request in prompts}
    while waiting or not engine.idle:
        if waiting:
            request, prompt = waiting.pop()
            engine.start(group(request, prompt, tokens=tokens))
        for event in engine.step().events:
            if isinstance(event, Sampled):
                said[event.id.request].append(event.draw.token)
                if len(said[event.id.request]) == tokens:
                    engine.release(event.id)
    return said


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_tiny_decoder_says_the_same_on_both_runtimes(tmp_path: Path, plan: Plan) -> None:
    directory = tiny.put(tmp_path / "made", plan)
    said = said_by(load(directory, "onnxruntime-genai"), {0: PROMPT})[0]
    assert said == said_by_onnxruntime(directory, plan)
    assert len(set(said)) > TOKENS // 2


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.grouped], ids=str)
def test_a_tiny_decoder_says_the_same_batched_alone_and_among_others(
    tmp_path: Path, plan: Plan
) -> None:
    directory = tiny.put(tmp_path / "made", plan)
    engine = load(directory, "auto")
    assert engine.name == "batched"
    prompts = {n: [30 + n, *PROMPT[: n + 3]] for n in range(4)}
    alone = {n: said_by(engine, {n: prompt})[n] for n, prompt in prompts.items()}
    assert said_by(load(directory, "auto"), prompts) == alone
    assert said_by(engine, prompts) == alone
    genai = load(directory, "onnxruntime-genai")
    assert {n: said_by(genai, {n: prompt})[n] for n, prompt in prompts.items()} == alone


@pytest.mark.parametrize(
    ("decoding", "newcomers", "read"), [(0, 3, 2), (1, 1, 1), (1, 2, 2), (1, 3, 2), (2, 2, 1)]
)
def test_a_step_reads_half_a_chunk_unless_more_wait_than_decode(
    tmp_path: Path, decoding: int, newcomers: int, read: int
) -> None:
    engine = load(tiny.put(tmp_path / "made", Plan()), "batched")
    prompts = [[30 + n, *PROMPT[:7]] for n in range(decoding + newcomers)]  # half a chunk each
    for request in range(decoding):
        engine.start(group(request, prompts[request]))
        engine.step()
    for request in range(decoding, len(prompts)):
        engine.start(group(request, prompts[request]))
    sampled = [event.id.request for event in engine.step().events if isinstance(event, Sampled)]
    assert sampled == list(range(decoding + read))


def test_long_answers_are_the_same_too_up_to_the_end_of_the_context(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "made", Plan(positions=True))
    prompts = {n: [30 + n, *PROMPT[: 3 * n + 2]] for n in range(3)}
    tokens = 200 - max(map(len, prompts.values()))
    said = said_by(load(directory, "batched", context_length=200), prompts, tokens)
    genai = load(directory, "onnxruntime-genai", context_length=200)
    assert {n: said_by(genai, {n: prompt}, tokens)[n] for n, prompt in prompts.items()} == said


def test_a_row_that_would_be_rounded_differently_alone_never_is(tmp_path: Path) -> None:
    plan = Plan(dtype="float16", bits=4)
    decoder, _ = examine(tiny.put(tmp_path / "made", plan), "cpu")
    assert decoder is not None
    assert decoder.least_rows == 2


@pytest.mark.parametrize("plan", [Plan(bits=4), Plan(bits=4, accuracy_level=4)], ids=str)
def test_a_prompt_of_one_token_gives_the_same_bits_alone_and_among_others(
    tmp_path: Path, plan: Plan
) -> None:
    directory = tiny.put(tmp_path / "made", plan)
    drawn = []
    for others in range(3):
        engine = load(directory)
        for other in range(others):
            engine.start(group(10 + other, [30 + other, *PROMPT]))
            engine.step()
        engine.start(group(1, [77], logprobs=2))
        events = [event for _ in range(5) for event in engine.step().events]
        drawn.append([e.draw for e in events if isinstance(e, Sampled) and e.id.request == 1][:3])
    assert drawn == [drawn[0]] * 3
    assert len(drawn[0]) == 3


def scored_by(engine: Engine, prompt: list[int]) -> tuple[list[Draw], int]:
    """The tokens of a prompt but the first, and how many steps it took to read it."""
    engine.start(group(1, prompt, n=2, scored=3))
    told: list[Draw] = []
    for steps in itertools.count(1):
        events = engine.step().events
        told += [event.draw for event in events if isinstance(event, Scored)]
        if any(isinstance(event, Sampled) for event in events):
            engine.release(Id(1, 0))
            engine.release(Id(1, 1))
            return told, steps
    raise AssertionError


@pytest.mark.parametrize("plan", [Plan(), Plan(dtype="float16"), Plan(bits=4, accuracy_level=4)])
def test_a_graph_that_tells_all_positions_has_its_prompts_scored_in_chunks(
    tmp_path: Path, plan: Plan
) -> None:
    pruned = msgspec.structs.replace(plan, pruned=True)
    prompt = [*PROMPT, *PROMPT[::-1], *PROMPT]
    told, steps = scored_by(load(tiny.put(tmp_path / "whole", plan)), prompt)
    one_by_one, more = scored_by(load(tiny.put(tmp_path / "pruned", pruned)), prompt)
    genai, _ = scored_by(load(tmp_path / "whole", "onnxruntime-genai"), prompt)
    assert (steps, more) == (3, len(prompt) + 1)  # chunks are of 16 tokens
    assert [draw.token for draw in told] == prompt[1:]
    for other in (one_by_one, genai):
        assert [draw.token for draw in other] == prompt[1:]
        for one, same in zip(told, other, strict=True):
            assert one.logprob == pytest.approx(same.logprob, abs=0.02)
            assert dict(one.top) == pytest.approx(dict(same.top), abs=0.02)


def test_what_fails_on_its_way_into_the_batch_leaves_its_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(tiny.put(tmp_path / "made", Plan()))

    def copy(*_: object) -> None:
        raise MemoryError("there is no memory")

    with monkeypatch.context() as patch:
        patch.setattr(KvCache, "copy", copy)
        engine.start(group(1, PROMPT, n=2))
        broken = engine.step().events
    code = errors.NoCapacity.code
    assert broken == [Broken(Id(1, n), "there is no memory", code) for n in range(2)]
    assert engine.idle
    assert engine.kv_tokens == 0


def test_a_step_that_gave_nobody_a_token_counts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(tiny.put(tmp_path / "made", Plan()))
    engine.start(group(1, PROMPT))
    engine.step()

    def run(*_: object) -> None:
        raise RuntimeError("it cannot be computed")

    monkeypatch.setattr(Runner, "run", run)
    assert engine.step() == base.Step([Broken(Id(1, 0), "it cannot be computed")], batch=0)


def test_what_the_batched_engine_cannot_serve_says_why_when_it_has_to(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "made", Plan(grouped=False))
    assert load(directory, "auto").name == "onnxruntime-genai"
    with pytest.raises(errors.ModelLoadError, match="its attention is MultiHeadAttention"):
        load(directory, "batched")
