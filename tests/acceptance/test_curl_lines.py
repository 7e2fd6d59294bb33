"""The specification's own `curl` lines and response formats, against a real daemon.

They are as the specification prints them, but for two trailing commas (docs/api.md: not JSON) and
for the names that it leaves to its reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest

from tests.acceptance import curl
from tests.daemon import MODEL, Daemon
from tests.gallery import Gallery


class Endpoint(NamedTuple):
    """`more` are the fields that an answer has beyond the specification's."""

    line: str
    response: str
    more: Mapping[str, str] = MappingProxyType({})


COMPLETIONS = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "<HUGGINGFACE_CHECKPOINT>",
    "prompt": "the meaning of life is"
  }'
""",
    response="""\
{
  "text": " to find your purpose, and once you have"
}
""",
    more={"model": "text", "finish_reason": "text", "usage": "object"},
)
LOAD = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/load \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "<HUGGINGFACE_CHECKPOINT>",
    "cache_dir": "/Users/your_username/models"
  }'
""",
    response="""\
{
  "status": "success",
  "message": "Model loaded successfully"
}
""",
)
UNLOAD = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/unload
""",
    response="""\
{
  "status": "success",
  "message": "Model unloaded successfully"
}
""",
)
PARAMS = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/params \\
  -H "Content-Type: application/json" \\
  -d '{
    "temperature": 0.8,
    "top_p": 0.95,
    "max_length": 1000
  }'
""",
    response="""\
{
  "status": "success",
  "message": "Generation parameters set successfully",
  "params": {
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "min_length": 0,
    "max_length": 1000,
    "do_sample": true
  }
}
""",
)
HEALTH = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/health
""",
    response="""\
{
  "status": "ok",
  "model_loaded": "<HUGGINGFACE_CHECKPOINT>"
}
""",
    more={
        "all_models_loaded": "list",
        "devices": "list",
        "unusable_devices": "list",
        "max_models": "object",
        "version": "text",
    },
)
STATS = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/stats
""",
    response="""\
{
  "time_to_first_token": 2.14,
  "tokens_per_second": 33.33,
  "input_tokens": 128,
  "output_tokens": 5,
  "decode_token_times": [0.01, 0.02, 0.03, 0.04, 0.05]
}
""",
    more={"model": "text", "device": "text"},
)
MODELS = Endpoint(
    line="""\
curl http://localhost:1234/api/v0/models \\
  -H "Content-Type: application/json" \\
  -d '{
    "cache_dir": "/Users/your_username/models"
  }'
""",
    response="""\
{
  "data": [
    {
      "checkpoint": "<HUGGINGFACE_CHECKPOINT>",
      "device": "cpu",
      "dtype": "bfloat16"
    },
    {
      "checkpoint": "<ANOTHER_HUGGINGFACE_CHECKPOINT>",
      "device": "cpu",
      "dtype": "bfloat16"
    }
  ]
}
""",
)
_KINDS = {str: "text", bool: "boolean", int: "integer", float: "number", dict: "object"}


@pytest.fixture(scope="module")
def daemon(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Its answers have five tokens where nothing else is said."""
    settings = {
        "LEMONADE_CACHE_DIR": str(gallery.root),
        "LEMONADE_PARAMETERS__MAX_LENGTH": "5",
        "LEMONADE_PARAMETERS__IGNORE_EOS": "true",
    }
    with Daemon.start(tmp_path_factory.mktemp("curl"), settings) as daemon:
        yield daemon


@pytest.fixture
def send(daemon: Daemon, gallery: Gallery) -> Iterator[Any]:
    """Sends a line, with the names that its reader has to put in."""

    def send(endpoint: Endpoint) -> httpx.Response:
        line = endpoint.line.replace("<HUGGINGFACE_CHECKPOINT>", MODEL)
        method, target, headers, body = curl.read(
            line.replace("/Users/your_username/models", str(gallery.root))
        )
        return daemon.client.request(method, target, headers=headers, content=body)

    yield send
    daemon.client.delete("/api/v0/params")


def shape(value: Any) -> Any:
    """Keys and types; a list is as its first element, and all of them are alike."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        assert all(shape(one) == shape(value[0]) for one in value), value
        return [shape(one) for one in value[:1]]
    return _KINDS[type(value)]


def check(answer: httpx.Response, endpoint: Endpoint) -> dict[str, Any]:
    """The answer, which has all that the specification says and what `more` says, exactly."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    specified = shape(json.loads(endpoint.response))
    assert {key: shape(body.get(key)) for key in specified} == specified
    beyond = {key: value for key, value in body.items() if key not in specified}
    kinds = {key: "list" if type(v) is list else _KINDS[type(v)] for key, v in beyond.items()}
    assert kinds == endpoint.more
    return body


def test_the_completion_of_the_specification(send: Any) -> None:
    answer = check(send(COMPLETIONS), COMPLETIONS)
    assert answer["model"] == MODEL
    assert answer["text"]


def test_the_load_of_the_specification(send: Any, daemon: Daemon) -> None:
    answer = check(send(LOAD), LOAD)
    assert answer["status"] == "success"
    assert answer["message"].startswith("Model loaded successfully")
    assert daemon.health()["model_loaded"] == MODEL


def test_the_unload_of_the_specification(send: Any, daemon: Daemon) -> None:
    send(COMPLETIONS)
    assert check(send(UNLOAD), UNLOAD) == json.loads(UNLOAD.response)
    assert daemon.workers() == []


def test_the_params_of_the_specification(send: Any) -> None:
    specified = json.loads(PARAMS.response)
    answer = send(PARAMS).json()
    params = answer.pop("params")
    assert answer == {"status": "success", "message": specified["message"]}
    penalties = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    further = {"min_p": 0.0, **penalties, "seed": None, "stop": []}
    said = json.loads(curl.read(PARAMS.line).body)
    assert params == {**specified["params"], **said, **further, "top_k": 50}
    assert shape({name: params[name] for name in specified["params"]}) == shape(specified["params"])


def test_the_health_of_the_specification(send: Any) -> None:
    send(COMPLETIONS)
    answer = check(send(HEALTH), HEALTH)
    assert (answer["status"], answer["model_loaded"]) == ("ok", MODEL)


def test_the_stats_of_the_specification(send: Any) -> None:
    send(COMPLETIONS)
    answer = check(send(STATS), STATS)
    assert answer["output_tokens"] == 5
    assert answer["tokens_per_second"] > 0


def test_the_models_of_the_specification(send: Any) -> None:
    answer = check(send(MODELS), MODELS)
    names = [model["checkpoint"] for model in answer["data"]]
    assert MODEL in names
    assert len(names) > 1
