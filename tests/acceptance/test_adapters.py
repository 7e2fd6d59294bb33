"""Adapters in a checkpoint's directory, through a real daemon: each is a model of its own, and all
of them live in one worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import openai
import pytest

from tests import checkpoints, lora, tiny
from tests.acceptance.openai_clients import client_of
from tests.acceptance.test_catalogue import House
from tests.daemon import Daemon
from tests.graphs import Plan

PLAN = Plan(vocabulary=49152, lora=True)
MATRICES = {
    "formal": lora.matrices(PLAN.adapted, 1),
    "pirate": lora.matrices(PLAN.adapted, 2, rank=2),
    "nothing": lora.matrices(PLAN.adapted, 3, size=0),
}
PROMPT = "Once upon a time there was a ship, and on that ship there was"


@pytest.fixture
def house(start_daemon: Callable[..., Daemon], cache_dir: Path, tmp_path: Path) -> House:
    """`tiny`, its adapters, and what it is with `formal` and `pirate` worked into its weights."""
    house = House(start_daemon, tmp_path, {})
    source = checkpoints.original(cache_dir)
    tiny.put_with_tokenizer(house.cache / "tiny" / "fp32", PLAN, source)
    for name in ("formal", "pirate"):
        merged = tiny.put_with_tokenizer(house.cache / f"merged-{name}", PLAN, source)
        onnx.save_model(lora.merged(PLAN, MATRICES[name]), str(merged / "model.onnx"))
        add(house, name)
    return house


def add(house: House, name: str, matrices: lora.Matrices | None = None) -> Path:
    path = house.cache / "tiny" / "fp32" / "adapters" / f"{name}.onnx_adapter"
    return lora.write(path, matrices or MATRICES[name])


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with client_of(house.daemon) as client:
        yield client


def say(client: openai.OpenAI, model: str, tokens: int = 24) -> str:
    """Greedily."""
    answer = client.completions.create(
        model=model,
        prompt=PROMPT,
        max_tokens=tokens,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert answer.model == model.replace(":fp32", "")
    return answer.choices[0].text


def test_each_says_what_its_matrices_make_of_the_weights(
    house: House, client: openai.OpenAI
) -> None:
    add(house, "nothing")
    names = ("tiny", "tiny:formal", "tiny:pirate", "tiny:nothing")
    said = {name: say(client, name) for name in names}
    assert len(set(said.values())) == 3
    assert said["tiny:nothing"] == said["tiny"]
    assert say(client, "tiny:fp32:pirate") == said["tiny:pirate"]
    for name in ("formal", "pirate"):
        assert say(client, f"merged-{name}") == said[f"tiny:{name}"]
    assert house.daemon.loads()["tiny"] == 1


def test_a_real_model_is_what_it_was_and_has_adapters(
    start_daemon: Callable[..., Daemon],
    cache_dir: Path,
    tmp_path: Path,
    together: ThreadPoolExecutor,
) -> None:
    source = checkpoints.original(cache_dir)
    model = onnx.load(str(source / "model.onnx"), load_external_data=False)
    adapted = lora.grafted(model, ("attention.output", "mlp.down"))
    replaced = {"model.onnx": model.SerializeToString()}
    directory = checkpoints.link(source, tmp_path / "cache" / "real", replaced)
    checkpoints.link(source, tmp_path / "cache" / "before")
    for name, seed, size in (("a", 1, 0.04), ("b", 2, 0.04), ("zero", 3, 0)):
        matrices = lora.matrices(adapted, seed, rank=16, size=size)
        lora.write(directory / "adapters" / f"{name}.onnx_adapter", matrices)
    daemon = start_daemon(
        LEMONADE_CACHE_DIR=str(tmp_path / "cache"), LEMONADE_WORKER__ENGINE="onnxruntime-genai"
    )
    with client_of(daemon) as client:

        def odds(model: str) -> tuple[float, ...]:
            """Of the tokens that it says."""
            answer = client.completions.create(
                model=model, prompt=PROMPT, max_tokens=16, temperature=0, logprobs=0
            )
            drawn = answer.choices[0].logprobs
            assert drawn
            return tuple(of for of in drawn.token_logprobs or () if of is not None)

        before = odds("before")
        names = ["real", "real:zero", "real:a", "real:b"]
        said = [odds(name) for name in names]
        assert said[:2] == [before, before]
        assert len(set(said)) == 3
        assert list(together.map(odds, names)) == said


def test_at_the_same_time_each_has_its_own(
    house: House, client: openai.OpenAI, together: ThreadPoolExecutor
) -> None:
    names = ["tiny", "tiny:formal", "tiny:pirate"] * 4
    alone = {name: say(client, name) for name in names[:3]}

    def stream(name: str) -> str:
        chunks = client.completions.create(
            model=name,
            prompt=PROMPT,
            max_tokens=24,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        return "".join(chunk.choices[0].text for chunk in chunks)

    assert list(together.map(stream, names)) == [alone[name] for name in names]
    assert len(house.daemon.workers()) == 1
    assert list(house.daemon.resident()) == ["tiny"]
    metrics = house.daemon.client.get("/metrics").text
    assert 'model="tiny"' in metrics
    assert "pirate" not in metrics


def test_an_adapter_that_was_copied_is_there_at_once(house: House, client: openai.OpenAI) -> None:
    before = say(client, "tiny")
    assert "tiny:late" not in house.names()
    with pytest.raises(openai.NotFoundError, match="it has: formal, pirate"):
        say(client, "tiny:late")
    path = add(house, "late", MATRICES["pirate"])
    assert "tiny:late" in house.names()
    assert say(client, "tiny:late") == say(client, "tiny:pirate")
    path.with_suffix(".new").write_bytes(lora.write(path, MATRICES["formal"]).read_bytes())
    path.with_suffix(".new").replace(path)
    assert say(client, "tiny:late") == say(client, "tiny:formal")
    path.unlink()
    assert "tiny:late" not in house.names()
    with pytest.raises(openai.NotFoundError):
        say(client, "tiny:late")
    assert say(client, "tiny") == before
    assert house.daemon.loads()["tiny"] == 1


def test_chat_and_responses_take_adapters(house: House, client: openai.OpenAI) -> None:
    model = "tiny:pirate"
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
    )
    response = client.responses.create(model=model, input="Hi", max_output_tokens=4)
    assert (chat.model, response.model) == (model, model)
    assert client.models.retrieve(model).to_dict()["parent"] == "tiny"


def test_a_damaged_one_is_an_error_and_the_worker_goes_on(
    house: House, client: openai.OpenAI
) -> None:
    said, pids = say(client, "tiny"), house.daemon.resident()
    whole = add(house, "damaged", MATRICES["pirate"])
    assert say(client, "tiny:damaged") == say(client, "tiny:pirate")
    whole.write_bytes(whole.read_bytes()[:-1000])  # in its place, while it is in use
    add(house, "other", {"model.layers.9.lora_A.weight": next(iter(MATRICES["pirate"].values()))})
    (whole.parent / "bad name.onnx_adapter").write_bytes(b"")
    for name, words in (("damaged", "is damaged"), ("other", "does not fit this model")):
        with pytest.raises(openai.InternalServerError, match=words) as raised:
            client.with_options(max_retries=0).completions.create(
                model=f"tiny:{name}", prompt="Hi", max_tokens=1
            )
        assert raised.value.code == "model_load_error"
    with pytest.raises(openai.BadRequestError, match="names no model"):
        say(client, "tiny:bad name")
    assert "tiny:bad name" not in house.names()
    assert say(client, "tiny") == said
    assert house.daemon.resident() == pids


def test_adapters_that_have_no_room_together_take_turns(
    start_daemon: Callable[..., Daemon], house: House, together: ThreadPoolExecutor
) -> None:
    room = max(path.stat().st_size for path in house.cache.rglob("*.onnx_adapter"))
    house.settings["LEMONADE_WORKER__MAX_ADAPTER_BYTES"] = str(room)
    house.restart()
    with client_of(house.daemon) as client:
        names = ["tiny:formal", "tiny:pirate", "tiny"] * 3
        said = list(together.map(lambda name: say(client, name), names))
    assert said[:3] * 3 == said
    assert len(set(said)) == 3


def test_commands_and_aliases_know_adapters(house: House, client: openai.OpenAI) -> None:
    assert "tiny:pirate" in house.say("list")
    (tiny,) = [one for one in json.loads(house.say("list", "--json")) if one["name"] == "tiny"]
    assert tiny["adapters"] == ["formal", "pirate"]
    assert "pirate.onnx_adapter" in house.say("show", "tiny")
    assert "pirate.onnx_adapter" in house.say("show", "tiny:pirate", "--json")
    assert "it has: formal, pirate" in house.run("show", "tiny:lazy").stderr
    house.say("alias", "captain", "tiny:pirate")
    assert "captain" in house.names()
    assert client.completions.create(model="captain", prompt="Hi").model == "tiny:pirate"
    assert "adapters may give its" in house.say("ps")
