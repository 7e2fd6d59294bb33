"""Short words for what most tests of the specification's routes ask for."""

from __future__ import annotations

from typing import Any

import httpx

from tests.daemon import Daemon


def complete(daemon: Daemon, **said: Any) -> httpx.Response:
    """One token, where nothing else is said."""
    body = {"prompt": "Hi", "max_length": 1, **said}
    return daemon.client.post("/api/v0/completions", json=body)


def load(daemon: Daemon, model: str, **said: Any) -> str:
    """The answer's message."""
    answer = daemon.client.post("/api/v0/load", json={"model": model, **said})
    assert answer.status_code == 200, answer.text
    message: str = answer.json()["message"]
    return message


def unload(daemon: Daemon, **said: Any) -> None:
    answer = daemon.client.post("/api/v0/unload", json=said)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "success"


def resident(daemon: Daemon) -> list[tuple[str, str, str]]:
    """Model, device and dtype of what is loaded, the last used first."""
    models = daemon.health()["all_models_loaded"]
    return [(model["model_name"], model["device"], model["dtype"]) for model in models]
