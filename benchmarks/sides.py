"""The servers that take turns: daemons of ours, each with its own settings, and strangers."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag

import httpx
import psutil

from benchmarks.daemon import daemon, shelf
from benchmarks.loops import Loop
from benchmarks.prompts import Prompts
from benchmarks.result import find_checkpoint
from benchmarks.streams import Server
from benchmarks.traffic import Ask, Target, closed
from lemonade_serve.domain.checkpoint import CheckpointInfo

OURS = "daemon"
_WARM_UP_TOKENS = 16
_MEASURED_WORDS = 100
_DEADLINE_S = 60.0


class Side(NamedTuple):
    """A server, or one for each model, by what it is called in the result."""

    name: str
    targets: tuple[Target, ...]
    settings: Mapping[str, str] | None
    """Of a daemon that was started here; None: a server that ran already."""
    loop: Loop | None = None
    """Instead of a server: onnxruntime-genai's own loop, which has one sequence at a time."""

    def health(self) -> list[dict[str, Any]] | None:
        """What a daemon of ours says of each model; None for a stranger."""
        if self.loop:
            return None
        root = self.targets[0].server.url.removesuffix("/v1")
        answer = get(f"{root}/api/v0/health", self.targets[0].server.headers)
        if answer.status_code != 200:
            return None
        models: list[dict[str, Any]] | None = answer.json().get("all_models_loaded")
        return models

    def memory(self) -> list[dict[str, Any]] | None:
        """In bytes, for each model: what the daemon charges, and what is really resident."""
        return (health := self.health()) and [
            {
                "model": model["model_name"],
                "engine": model["engine"],
                "charged_bytes": model["memory_bytes"],
                "resident_bytes": resident_bytes(model["pid"]),
            }
            for model in health
            if model["pid"]
        ]


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """Which sides there are, for `open_sides`."""
    arguments.add_argument(
        "--url",
        help="a server that runs already, instead of a daemon: BASE[#MODEL][,BASE#MODEL], a model "
        "each; BASE ends in /v1",
    )
    arguments.add_argument(
        "--peer", action="append", default=[], metavar="NAME=URL", help="as --url, besides"
    )
    arguments.add_argument(
        "--settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of all daemons that are started, as in the environment less LEMONADE_",
    )
    arguments.add_argument(
        "--side",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,…",
        help="one more daemon, with these settings besides",
    )
    arguments.add_argument(
        "--header", action="append", default=[], metavar="NAME: VALUE", help="of all requests"
    )
    arguments.add_argument("--patience", type=float, default=600, help="s for a request")
    arguments.add_argument(
        "--text", action="store_true", help="prompts are text, for servers that take no token ids"
    )


@contextmanager
def open_sides(given: argparse.Namespace, names: Sequence[str]) -> Iterator[list[Side]]:
    """The first is what others are compared with. Daemons serve the checkpoint under these names;
    each side is warm: every model has answered."""
    headers = dict(line.split(": ", 1) for line in given.header)
    common = parse_settings(given.settings)
    with ExitStack() as opened:
        sides = []
        if given.url:
            sides.append(_stranger("url", given.url, headers))
        ours = {} if given.url else {OURS: common}
        for side in given.side:
            name, _, settings = side.partition(":")
            ours[name] = {**common, **parse_settings(settings.split(","))}
        if ours:
            cache_dir = opened.enter_context(shelf(find_checkpoint(given), names))
        for name, settings in ours.items():
            port = opened.enter_context(daemon(cache_dir, settings))
            sides.append(own_side(name, dict.fromkeys(names, port), settings, headers))
        for peer in given.peer:
            name, _, url = peer.partition("=")
            sides.append(_stranger(name, url, headers))
        assert len({side.name for side in sides}) == len(sides), "two sides have the same name"
        prompts = Prompts(given.seed, words_per_token=1 if given.text else None)
        for side in sides:
            asyncio.run(warm_up(side, prompts))
        yield sides


def served(given: argparse.Namespace) -> CheckpointInfo | None:
    """What the daemons serve that are started; None if none is. Raises ModelNotFound."""
    return None if given.url and not given.side else find_checkpoint(given)


def by_turns(
    sides: Sequence[Side],
    rounds: int,
    choose: random.Random,
    measure: Callable[[Side], Coroutine[Any, Any, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """One row a round, with what each side measured, in an order drawn anew. The first round is
    for warming up, and left out."""
    rows = []
    for number in range(-1, rounds):
        order = choose.sample(sides, len(sides))
        row: dict[str, Any] = {"round": number, "order": [side.name for side in order]}
        for side in order:
            row[side.name] = asyncio.run(measure(side))
        if number >= 0:
            rows.append(row)
    return rows


def own_side(
    name: str,
    ports: Mapping[str, int],
    settings: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
) -> Side:
    """Daemons of ours, by the models that are asked of each."""
    targets = [
        Target(Server(f"http://127.0.0.1:{port}/v1", headers or {}), model)
        for model, port in ports.items()
    ]
    return Side(name, tuple(targets), settings)


def described(side: Side) -> dict[str, Any]:
    """For the result. Of a stranger no address: that is this machine's own affair."""
    models = [target.model for target in side.targets]
    return {"models": models, "settings": side.settings, "ours": side.settings is not None}


def parse_settings(given: Sequence[str]) -> dict[str, str]:
    pairs = (setting.partition("=") for setting in given if setting)
    return {key: value for key, _, value in pairs}


def prompts_of(given: argparse.Namespace, sides: Sequence[Side]) -> Prompts:
    """Of the kind that was asked for. How many words of text are a token is measured, on the first
    side."""
    if not given.text:
        return Prompts(given.seed)
    prompts = Prompts(given.seed, words_per_token=1)
    ask = Ask(sides[0].targets[0], prompts.new(_MEASURED_WORDS), 2)
    [exchange] = asyncio.run(closed([ask], 1, _DEADLINE_S))
    answer = exchange.read()
    assert not answer.problem, answer.problem
    return Prompts(given.seed, words_per_token=_MEASURED_WORDS / answer.prompt_tokens)


async def warm_up(side: Side, prompts: Prompts) -> None:
    """Every model answers, then several requests at a time. Raises AssertionError, with what it
    said, if it does not."""
    for target in side.targets:
        for concurrency in (1, 8):
            asks = [Ask(target, prompts.new(32), _WARM_UP_TOKENS) for _ in range(concurrency)]
            for exchange in await closed(asks, concurrency, _DEADLINE_S):
                problem = exchange.read().problem
                assert not problem, f"{side.name} at {target.server.url}: {problem}"


def _stranger(name: str, urls: str, headers: Mapping[str, str]) -> Side:
    """Its first model, where none is named."""
    targets = []
    for url in urls.split(","):
        base, model = urldefrag(url)
        server = Server(base.rstrip("/"), headers)
        if not model:
            answer = get(f"{server.url}/models", headers).raise_for_status()
            model = answer.json()["data"][0]["id"]
        targets.append(Target(server, model))
    return Side(name, tuple(targets), None)


def api_process(side: Side) -> psutil.Process:
    """The parent of a daemon's workers."""
    health = side.health()
    assert health, f"{side.name} has no model"
    parent = psutil.Process(health[0]["pid"]).parent()
    assert parent, f"the worker of {side.name} is an orphan"
    return parent


def resident_bytes(pid: int) -> int:
    """Of a process of this machine; 0 if there is none of that number."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    """Whatever the status; without the proxies of the environment."""
    return httpx.get(url, headers=dict(headers), trust_env=False, timeout=_DEADLINE_S)
