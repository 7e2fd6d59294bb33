"""Models in safetensors, converted by the real model builder in an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from benchmarks.safetensors import write_source
from lemonade_serve.domain.provenance import Check
from lemonade_serve.hub.matrices import stored_dtype
from lemonade_serve.worker.engines.choice import examine
from tests import checkpoints, sources
from tests.daemon import MODEL, Daemon, eventually, is_gone
from tests.hub import Hub, running

pytestmark = pytest.mark.system
StartDaemon = Callable[..., Daemon]

NAME = "org/small"
HEAVY = ("libtorch", "/torch/", "/transformers/")


class Converter:
    """`lemonade-serve convert` and `pull`, into a cache of their own."""

    def __init__(self, exporter: str, directory: Path) -> None:
        self.cache = directory / "cache"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LEMONADE_", "HF_"))},
            "HF_HOME": str(directory / "home"),
            "LEMONADE_CACHE_DIR": str(self.cache),
            "LEMONADE_CONVERT__PYTHON": exporter,
            "LEMONADE_CONVERT__ALGORITHM": "default",
            "LEMONADE_HUB__MIN_FREE_BYTES": "0",
        }

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """A child of a shell's background job would not heed an interrupt."""
        heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        return subprocess.Popen(
            [sys.executable, "-m", "lemonade_serve", *command],
            env={**self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heeding,  # noqa: PLW1509, one line of code
        )

    def run(self, *command: str, **settings: str) -> dict[str, Any]:
        output, complaint = self._run(0, *command, "--json", **settings)
        answer: dict[str, Any] = json.loads(output)
        assert complaint
        return answer

    def fail(self, *command: str, **settings: str) -> str:
        """What is said; nothing is left."""
        _, complaint = self._run(1, *command, **settings)
        assert self.left() == []
        return complaint

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.cache)) for path in self.cache.rglob("*"))

    def _run(self, code: int, *command: str, **settings: str) -> tuple[str, str]:
        process = self.start(*command, **settings)
        output, complaint = process.communicate(timeout=300)
        assert process.returncode == code, complaint
        return output, complaint


@pytest.fixture
def converter(exporter: str, tmp_path: Path) -> Converter:
    return Converter(exporter, tmp_path)


@pytest.fixture(scope="module")
def small(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    tokenizer = checkpoints.original(cache_dir)
    return sources.put(tmp_path_factory.mktemp("sources") / "small", tokenizer)


@pytest.fixture(scope="module")
def smollm2(
    exporter: str, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Converter:
    """The real one in int4, int8 and fp32: its weights are those of the GGUF file."""
    directory = tmp_path_factory.mktemp("smollm2")
    source = directory / MODEL
    source.mkdir()
    write_source(smollm2_gguf, source)
    converter = Converter(exporter, directory)
    for dtype in ("int4", "int8", "fp32"):
        answer = converter.run("convert", str(source), "--dtype", dtype)
        assert (answer["model"], answer["dtype"]) == (MODEL, dtype)
    return converter


@pytest.mark.parametrize(
    ("dtype", "ratio", "agreement"), [("int4", 1.5, 0.5), ("int8", 1.02, 0.9), ("fp32", 1.0001, 1)]
)
def test_a_converted_checkpoint_is_what_it_says_and_the_batched_engine_takes_it(
    smollm2: Converter, dtype: str, ratio: float, agreement: float
) -> None:
    path = smollm2.cache / MODEL / dtype
    assert stored_dtype(path / "model.onnx") == dtype
    choice = examine(path, "cpu")
    assert choice.decoder, choice.why
    provenance = json.loads((path / "provenance.json").read_bytes())
    conversion = provenance["conversion"]
    check = msgspec.convert(conversion["check"], Check)
    assert check.perplexity <= ratio * check.reference_perplexity
    assert check.agreement >= agreement
    assert (check.positions > 300, check.new_tokens) == (True, 10)
    assert any(program.startswith("torch ") for program in conversion["programs"])
    assert [file["path"] for file in conversion["files"]] == ["config.json", "model.safetensors"]
    source = smollm2.cache.parent / MODEL
    assert (path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    config = json.loads((path / "genai_config.json").read_bytes())["model"]
    assert (config["eos_token_id"], config["context_length"]) == ([2, 0], 8192)
    assert 0 < (path / "conversion.log").stat().st_size <= 1024 * 1024


def test_a_daemon_serves_what_was_converted(smollm2: Converter, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(LEMONADE_CACHE_DIR=str(smollm2.cache))
    for dtype, said in (("int4", ""), ("int8", "Paris"), ("fp32", "Paris")):
        question = {"role": "user", "content": "In which city is the Eiffel Tower?"}
        body = {"model": f"{MODEL}:{dtype}", "messages": [question], "temperature": 0}
        answer = daemon.client.post("/v1/chat/completions", json={**body, "max_tokens": 40}).json()
        assert said in answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    slots = daemon.health()["all_models_loaded"]
    assert {slot["engine"] for slot in slots} == {"batched"}
    shown = smollm2.start("show", f"{MODEL}:int8").communicate()[0]
    assert "perplexity" in shown
    assert "transformers" in shown


def test_a_checkpoint_that_is_far_from_its_source_is_refused(
    converter: Converter, small: Path
) -> None:
    said = converter.fail(
        *("convert", str(small), "--dtype", "int4"),
        LEMONADE_CONVERT__MAX_PERPLEXITY_RATIO="1",
        LEMONADE_CONVERT__ALGORITHM="rtn",
    )
    assert "the checkpoint is no good" in said
    assert "convert.max_perplexity_ratio" in said


@pytest.mark.parametrize(("limit", "said"), [("100MiB", "0.1"), ("700MiB", "0.7")])
def test_more_memory_than_is_allowed_is_an_error(
    converter: Converter, smollm2: Converter, limit: str, said: str
) -> None:
    """For the libraries alone, and for the model."""
    source = str(smollm2.cache.parent / MODEL)
    complaint = converter.fail("convert", source, LEMONADE_CONVERT__MEMORY_LIMIT=limit)
    assert f"more memory than the {said} GiB of convert.memory_limit" in complaint


def test_a_conversion_that_takes_too_long_is_ended(converter: Converter, small: Path) -> None:
    said = converter.fail("convert", str(small), LEMONADE_CONVERT__TIMEOUT_S="1")
    assert "the job took over 1 s" in said


def test_a_model_that_the_builder_does_not_know_is_refused(
    converter: Converter, cache_dir: Path, tmp_path: Path
) -> None:
    config = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    tokenizer = checkpoints.original(cache_dir)
    said = converter.fail("convert", str(sources.put(tmp_path / "x", tokenizer, **config)))
    assert "the model builder does not know it" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_who_ends_a_conversion_leaves_nothing(
    converter: Converter, smollm2: Converter, number: signal.Signals
) -> None:
    process = converter.start("convert", str(smollm2.cache.parent / MODEL), "--dtype", "int8")
    eventually(lambda: any(name.endswith("conversion.log") for name in converter.left()))
    jobs = psutil.Process(process.pid).children(recursive=True)
    assert any(job.exe() == psutil.Process(job.pid).exe() for job in jobs)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    eventually(lambda: all(map(is_gone, jobs)))
    eventually(lambda: converter.left() == [])


def test_of_other_architectures_too_the_graph_is_the_model(exporter: str, cache_dir: Path) -> None:
    """In float32 nothing is rounded. benchmarks/exactness.py knows more of them."""
    names = ["llama, llama3 rope", "mistral, window", "qwen3", "phi3, window", "gemma3"]
    checkpoint = checkpoints.original(cache_dir)
    command = [exporter, "-m", "benchmarks.exactness", str(checkpoint), "--json", "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: check.get("agreement", check) for name, check in found.items()} == dict.fromkeys(
        names, pytest.approx(1.0, abs=0.01)
    )


@pytest.fixture
def hub(small: Path) -> Any:
    with running() as hub:
        files = {path.name: path.read_bytes() for path in small.iterdir()}
        others = {"README.md": b"?", "modeling_own.py": b"boom()", "pytorch_model.bin": b"pickle"}
        hub.add(NAME, {**files, **others})
        yield hub


def test_a_repository_of_safetensors_is_pulled_and_converted(
    converter: Converter, hub: Hub, small: Path
) -> None:
    answer = converter.run("pull", NAME, "--dtype", "int8", HF_ENDPOINT=hub.url)
    assert (answer["model"], answer["dtype"], answer["new"]) == (NAME, "int8", True)
    provenance = json.loads(Path(answer["path"], "provenance.json").read_bytes())
    assert provenance["source"]["how"] == "converted from safetensors"
    fetched = {file["path"] for file in provenance["source"]["files"]}
    assert fetched == {path.name for path in small.iterdir()}
    assert provenance["conversion"]["check"]["new_tokens"] == 10
    again = converter.run("pull", NAME, "--dtype", "int8", HF_ENDPOINT=hub.url)
    assert again["new"] is False
    other = converter.run("pull", NAME, "--dtype", "fp32", HF_ENDPOINT=hub.url)
    assert (other["dtype"], other["new"]) == ("fp32", True)


def test_a_daemon_converts_what_it_pulls_and_has_no_torch_itself(
    exporter: str, hub: Hub, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon(
        LEMONADE_CACHE_DIR=str(tmp_path / "cache"),
        LEMONADE_CONVERT__PYTHON=exporter,
        LEMONADE_HUB__MIN_FREE_BYTES="0",
        HF_HOME=str(tmp_path / "home"),
        HF_ENDPOINT=hub.url,
    )
    stages, heavy = [], False
    body = {"model": NAME, "dtype": "fp32", "stream": True}
    with daemon.client.stream("POST", "/api/v0/pull", json=body, timeout=300) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            stages.append(event.get("stage"))
            heavy = heavy or any(map(_is_heavy, psutil.Process(daemon.process.pid).children()))
            assert not _is_heavy(psutil.Process(daemon.process.pid))
    assert heavy  # the job was, and it was not the daemon
    assert len(set(stages)) > 2  # some are over before anybody could be told
    body = {"model": NAME, "prompt": "Alice", "max_tokens": 3, "temperature": 0}
    assert daemon.client.post("/v1/completions", json=body).status_code == 200


def _is_heavy(process: psutil.Process) -> bool:
    """Whether it has any of torch or transformers in memory."""
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:  # it has ended
        return False
    return any(name in maps for name in HEAVY)
