"""A checkpoint and its adapters, side by side in one engine: each is the model that its matrices,
worked into the weights, would be."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lemonade_serve import errors
from lemonade_serve.hub import adapters
from lemonade_serve.protocol.messages import Adapter, Load, ResolvedParams
from lemonade_serve.worker.engines import base
from lemonade_serve.worker.engines.base import Admitted, Broken, Engine, Event, Group, Id, Sampled
from lemonade_serve.worker.engines.choice import examine
from lemonade_serve.worker.engines.opening import open_engine
from lemonade_serve.worker.sampler import Drawing
from tests import lora, tiny
from tests.graphs import HEAD_SIZE, Plan

PLAN = Plan(lora=True)
PROMPT = [5, 100, 20, 511, 7, 300, 41, 8, 90, 250, 77, 19]
TOKENS = 12
NAMES = (None, "formal", "pirate", "nothing")
MATRICES: Mapping[str, lora.Matrices] = {
    "formal": lora.matrices(PLAN.adapted, 1),
    "pirate": lora.matrices(PLAN.adapted, 2, rank=2),
    "nothing": lora.matrices(PLAN.adapted, 3, size=0),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.put(tmp_path_factory.mktemp("adapters") / "tiny", PLAN)
    for name, matrices in MATRICES.items():
        lora.write(made / "adapters" / f"{name}.onnx_adapter", matrices)
    return made


def open_(directory: Path, **more: object) -> Engine:
    load = {
        "path": str(directory),
        "execution_provider": "cpu",
        "threads": 1,
        "sequence_slots": 4,
        "kv_cache_tokens": 256,
        "prefill_chunk_tokens": 16,
        "turn_timeout_s": 1,
        "engine": "auto",
        **more,
    }
    engine, _ = open_engine(Load(**load), context_length=64)  # type: ignore[arg-type]
    return engine


@pytest.fixture(scope="module")
def engine(directory: Path) -> Engine:
    return open_(directory)


def known(directory: Path) -> dict[str | None, Adapter | None]:
    return {None: None, **{adapter.name: adapter for adapter in adapters.find(directory)}}


def start(engine: Engine, request: int, adapter: Adapter | None, tokens: int = TOKENS) -> None:
    params = ResolvedParams(temperature=0.0, logprobs=0)
    sequences = [base.Sequence(Id(request, 0), Drawing(params, PROMPT, frozenset()))]
    group = Group(PROMPT, tokens, sequences, adapter=adapter)
    assert engine.fits(group)
    engine.start(group)


def run(engine: Engine, tokens: int = TOKENS) -> list[Event]:
    """Until all that run have so many tokens, or broke."""
    events: list[Event] = []
    while not engine.idle:
        events += engine.step().events
        for event in events:
            drawn = [e for e in events if isinstance(e, Sampled) and e.id == event.id]
            if len(drawn) == tokens:
                engine.release(event.id)
    return events


def drawn(events: Sequence[Event], request: int) -> list[tuple[int, float | None]]:
    return [
        (event.draw.token, event.draw.logprob)
        for event in events
        if isinstance(event, Sampled) and event.id.request == request
    ]


def alone(engine: Engine, adapter: Adapter | None) -> list[tuple[int, float | None]]:
    start(engine, 0, adapter)
    return drawn(run(engine), 0)


def said_by_onnxruntime(adapter: str | None) -> list[tuple[int, float]]:
    """With the adapter worked into the weights, and an empty past at every step."""
    model = lora.merged(PLAN, MATRICES[adapter or "nothing"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    past = np.zeros((1, PLAN.kv_heads, 0, HEAD_SIZE), np.float32)
    tokens, said = list(PROMPT), []
    for _ in range(TOKENS):
        ids = np.array([tokens])
        fed = {value.name: past for value in session.get_inputs()}
        fed |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        row = session.run(["logits"], fed)[0][0, -1].astype(np.float64)
        token = int(row.argmax())
        said.append((token, float(row[token] - np.log(np.exp(row).sum()))))
        tokens.append(token)
    return said


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_is_what_its_matrices_make_of_the_weights(
    engine: Engine, directory: Path, name: str | None
) -> None:
    said, meant = alone(engine, known(directory)[name]), said_by_onnxruntime(name)
    assert [token for token, _ in said] == [token for token, _ in meant]
    assert [of for _, of in said] == pytest.approx([of for _, of in meant], abs=1e-4)


def test_each_of_them_says_something_else(engine: Engine, directory: Path) -> None:
    said = {name: alone(engine, known(directory)[name]) for name in (None, "formal", "pirate")}
    assert len({tuple(token for token, _ in one) for one in said.values()}) == 3


def test_an_adapter_of_zeros_is_the_checkpoint_to_the_bit(engine: Engine, directory: Path) -> None:
    assert alone(engine, known(directory)["nothing"]) == alone(engine, None)


def test_side_by_side_they_say_what_they_say_alone(engine: Engine, directory: Path) -> None:
    there = known(directory)
    one_by_one = [alone(engine, there[name]) for name in NAMES]
    for request, name in enumerate(NAMES):
        start(engine, request, there[name])
    events = run(engine)
    assert [drawn(events, request) for request in range(len(NAMES))] == one_by_one


def test_what_one_has_read_is_of_no_use_to_another(engine: Engine, directory: Path) -> None:
    there = known(directory)

    def cached(adapter: Adapter | None) -> int:
        start(engine, 0, adapter)
        return next(e.cached_tokens for e in run(engine) if isinstance(e, Admitted))

    for name in ("formal", "pirate", None):
        alone(engine, there[name])
        assert cached(there[name]) == len(PROMPT) - 2
    fresh = open_(directory)
    for name in NAMES:
        start(fresh, 0, there[name])
        assert next(e.cached_tokens for e in run(fresh) if isinstance(e, Admitted)) == 0


def test_a_file_that_was_replaced_is_another_adapter(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "tiny", PLAN)
    path = lora.write(directory / "adapters" / "a.onnx_adapter", MATRICES["formal"])
    engine = open_(directory)
    first = alone(engine, known(directory)["a"])
    lora.write(path, MATRICES["pirate"])
    os.utime(path, ns=(0, time.time_ns() + 1_000_000))
    assert alone(engine, known(directory)["a"]) != first


def test_adapters_make_room_for_each_other(directory: Path) -> None:
    there = known(directory)
    room = max(adapter.bytes for adapter in there.values() if adapter)
    engine = open_(directory, max_adapter_bytes=room)
    for name in [*NAMES, *NAMES]:
        assert len(alone(engine, there[name])) == TOKENS
    start(engine, 1, there["formal"])
    waiting = Group(PROMPT, 1, [], adapter=there["nothing"])
    assert not engine.fits(waiting)  # those in use stay
    assert engine.fits(waiting._replace(adapter=None))
    assert engine.fits(waiting._replace(adapter=there["formal"]))
    run(engine)
    assert engine.fits(waiting)


def test_an_adapter_that_is_larger_than_its_room_is_refused(directory: Path) -> None:
    engine = open_(directory, max_adapter_bytes=100)
    start(engine, 0, known(directory)["formal"])
    (broken,) = run(engine)
    assert isinstance(broken, Broken)
    assert "worker.max_adapter_bytes is 100" in broken.message


def unfit(path: Path, kind: str) -> None:
    whole = dict(MATRICES["formal"])
    name, values = next(iter(whole.items()))
    match kind:
        case "a matrix that the graph has not":
            whole["model.layers.9.lora_A.weight"] = values
        case "a matrix of another shape":
            whole[name] = values[1:]
        case "two matrices of different ranks":
            whole[name] = values[:, 1:]
        case "a matrix of another type":
            whole[name] = values.astype(np.float16)  # type: ignore[assignment]
    lora.write(path, whole)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("a matrix that the graph has not", "model.layers.9.lora_A.weight"),
        ("a matrix of another shape", "Got: 63 Expected: 64"),
        ("two matrices of different ranks", "mismatch"),
        ("a matrix of another type", "float16"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_else_is(
    tmp_path: Path, kind: str, says: str
) -> None:
    directory = tiny.put(tmp_path / "tiny", PLAN)
    unfit(directory / "adapters" / "a.onnx_adapter", kind)
    engine = open_(directory)
    start(engine, 0, None)
    start(engine, 1, known(directory)["a"])
    events = run(engine)
    (broken,) = [event for event in events if isinstance(event, Broken)]
    assert broken.id.request == 1
    assert broken.code == errors.ModelLoadError.code
    assert broken.message.startswith("a does not fit this model: ")
    assert says in broken.message
    assert len(drawn(events, 0)) == TOKENS


def test_damaged_files_are_refused_or_read_and_the_engine_goes_on(
    engine: Engine, directory: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    whole = Path(directory / "adapters" / "pirate.onnx_adapter").read_bytes()
    before, refused = alone(engine, None), 0
    for turn in range(200):
        content = bytearray(whole)
        if turn % 2:
            del content[int(random.integers(len(content))) :]
        else:
            content[int(random.integers(len(content) // 8))] ^= int(random.integers(1, 256))
        path = tmp_path / f"{turn}.onnx_adapter"
        path.write_bytes(content)
        start(engine, 0, Adapter(str(turn), str(path), len(content), turn), 1)
        events = run(engine, 1)
        if isinstance(events[-1], Broken):
            assert events[-1].code == errors.ModelLoadError.code
            refused += 1
    assert refused > 90
    assert alone(engine, None) == before


def test_a_file_that_is_still_being_written_or_has_gone_is_refused(
    engine: Engine, directory: Path
) -> None:
    adapter = known(directory)["formal"]
    assert adapter
    for changed, says in (
        (Adapter("a", adapter.path, adapter.bytes - 1, 0), "being written"),
        (Adapter("a", adapter.path, adapter.bytes + 1, 0), "being written"),
        (Adapter("a", f"{adapter.path}.gone", 1, 0), "No such file"),
    ):
        start(engine, 0, changed)
        (broken,) = run(engine)
        assert isinstance(broken, Broken)
        assert says in broken.message


def test_what_takes_adapters_is_not_batched_and_says_why(directory: Path) -> None:
    choice = examine(directory, "cpu")
    assert choice.decoder is None
    assert choice.why == "adapters may give its model.layers.0.attn.o_proj.lora_A.weight"


def test_an_adapter_for_a_graph_that_takes_none_is_refused(tmp_path: Path) -> None:
    directory = tiny.put(tmp_path / "tiny", Plan(grouped=False))
    lora.write(directory / "a.onnx_adapter", MATRICES["formal"])
    engine = open_(directory)
    start(engine, 0, known(directory)["a"])
    (broken,) = run(engine)
    assert isinstance(broken, Broken)
    assert "does not fit this model: Invalid input name" in broken.message


@pytest.mark.parametrize("plan", [Plan(lora=True, bits=4), Plan(lora=True, grouped=False)], ids=str)
def test_adapters_fit_quantised_graphs_and_other_attentions(tmp_path: Path, plan: Plan) -> None:
    directory = tiny.put(tmp_path / "tiny", plan)
    lora.write(directory / "a.onnx_adapter", lora.matrices(plan.adapted, 1))
    lora.write(directory / "z.onnx_adapter", lora.matrices(plan.adapted, 1, size=0))
    engine, there = open_(directory), known(directory)
    assert alone(engine, there["z"]) == alone(engine, None) != alone(engine, there["a"])
