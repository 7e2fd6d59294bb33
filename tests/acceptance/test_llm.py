"""Simon Willison's `llm`, its command and its API: the daemon is an OpenAI-compatible model."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm
import pytest

from tests.acceptance.openai_clients import free_port
from tests.daemon import MODEL, Daemon

QUESTION = "In which city is the Eiffel Tower?"
ENTRY = """\
- model_id: lemon
  aliases: [squeezed]
  model_name: {model}
  api_base: http://127.0.0.1:{port}/v1
  supports_schema: true
  supports_tools: true
- model_id: plain-lemon
  model_name: {model}
  api_base: http://127.0.0.1:{port}/v1
  completion: true
"""
DOG = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 20},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def home(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of `llm`'s whose model is a daemon's."""
    directory = tmp_path_factory.mktemp("llm")
    port = free_port()
    settings = {"LEMONADE_CACHE_DIR": str(cache_dir), "LEMONADE_SERVER__PORT": str(port)}
    entry = ENTRY.format(model=MODEL, port=port)
    (directory / "extra-openai-models.yaml").write_text(entry)
    with Daemon.start(directory, settings):
        yield directory


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(home))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def command(*words: str) -> str:
    """What `llm` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "llm", *words],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestCommand:
    GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "32")

    def test_it_knows_the_model(self) -> None:
        assert "lemon (aliases: squeezed)" in command("models")

    def test_it_asks_and_streams(self) -> None:
        whole = command("-m", "lemon", "--no-stream", *self.GREEDY, QUESTION)
        assert "Paris" in whole
        assert command("-m", "squeezed", *self.GREEDY, QUESTION) == whole

    def test_it_goes_on_with_a_conversation(self) -> None:
        command("-m", "lemon", *self.GREEDY, QUESTION)
        assert command("-c", *self.GREEDY, "And the Colosseum?").strip()

    def test_it_completes_plain_text(self) -> None:
        said = command(
            "-m", "plain-lemon", "-o", "max_tokens", "4", "-o", "temperature", "0", "1,2"
        )
        assert said.strip()

    def test_it_asks_for_a_schema(self) -> None:
        schema = json.dumps(DOG)
        said = json.loads(command("-m", "lemon", *self.GREEDY, "--schema", schema, "A dog"))
        assert set(said) == {"name", "age"}


class TestApi:
    GREEDY: Any = {"temperature": 0, "max_tokens": 32}  # noqa: RUF012, of keywords

    def test_a_prompt_is_answered_and_streamed(self) -> None:
        model = llm.get_model("lemon")
        whole = model.prompt(QUESTION, stream=False, **self.GREEDY)
        assert "Paris" in whole.text()
        assert whole.usage().output > 0
        pieces = list(model.prompt(QUESTION, stream=True, **self.GREEDY))
        assert len(pieces) > 3
        assert "".join(pieces) == whole.text()

    def test_a_system_prompt_is_heard(self) -> None:
        answer = llm.get_model("lemon").prompt(QUESTION, system="You are brief.", **self.GREEDY)
        assert answer.text()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_it_has_an_asynchronous_half(self) -> None:
        async def ask() -> str:
            answer = llm.get_async_model("lemon").prompt(QUESTION, **self.GREEDY)
            text: str = await answer.text()
            return text

        assert "Paris" in asyncio.run(ask())
        gc.collect()  # `llm` never closes its asynchronous client, and that is heard of here

    def test_a_schema_is_kept_to(self) -> None:
        answer = llm.get_model("lemon").prompt("A dog", schema=DOG, **self.GREEDY)
        assert set(json.loads(answer.text())) == {"name", "age"}

    def test_a_tool_may_be_offered(self) -> None:
        def weather(city: str) -> str:
            """The weather in a city."""
            return f"It rains in {city}."

        model = llm.get_model("lemon")
        chain = model.chain("Is it raining in Paris?", tools=[weather], options=self.GREEDY)
        assert chain.text() is not None
