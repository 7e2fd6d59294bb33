"""`lemonade-serve load`, `unload`, `pin` and `unpin`: which models are in memory."""

from __future__ import annotations

import json
import re
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from lemonade_serve.cli import options
from lemonade_serve.cli.client import WORK_TIMEOUT_S, Api

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)([smhd]?)")


class Duration(click.ParamType[float]):
    """Seconds, or 90s, 10m, 2h, 1d; its value is in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = _DURATION.fullmatch(str(value))
        if not found:
            self.fail(f"{value!r} is no time: say seconds, or 90s, 10m, 2h, 1d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


_device = click.option("--device", help="npu, igpu or cpu.  [default: the best that has room]")
_which_device = click.option("--device", help="Only what is on this device: npu, igpu or cpu.")
_dtype = click.option("--dtype", help="int4, int8, fp16, bf16 or fp32.  [default: what there is]")
_all = click.option("--all", "everything", is_flag=True, help="All models (of --device).")


@click.command()
@click.argument("model")
@_device
@_dtype
@click.option(
    "--keep-alive",
    type=Duration(),
    help="Unload it when nobody used it for so long: seconds, or 10m, 2h; 0 as soon as it is idle, "
    "-1 never.  [default: the setting pool.idle_ttl_s]",
)
@options.daemon
@options.json_output
def load(api: Api, model: str, as_json: bool, **said: Any) -> None:
    """Bring a model into memory before it is needed; returns when it is there.

    MODEL is a name that `lemonade-serve list` shows. Without room the model that was used longest
    ago makes some, unless it is busy or pinned.
    """
    _work(api, "load", f"Loading {model}", {"model": model, **said}, as_json=as_json)


@click.command()
@click.argument("model", required=False)
@_which_device
@_all
@click.option("--force", is_flag=True, help="Cut running requests instead of waiting for them.")
@options.daemon
@options.json_output
def unload(
    api: Api, model: str | None, everything: bool, force: bool, as_json: bool, **said: Any
) -> None:
    """Give a model's memory back; returns when its process is gone.

    Running requests finish first. What is not loaded needs no unloading, and is no error.
    """
    _check_target(model, everything)
    body = {"model": model, "force": force or None, **said}
    _work(api, "unload", f"Unloading {model or 'all models'}", body, as_json=as_json)


@click.command()
@click.argument("model")
@_device
@_dtype
@options.daemon
@options.json_output
def pin(api: Api, model: str, as_json: bool, **said: Any) -> None:
    """Load a model if need be, and keep it: no other one ever takes its room.

    It stays pinned over restarts of the daemon, until `lemonade-serve unpin`.
    """
    _work(api, "pin", f"Pinning {model}", {"model": model, **said}, as_json=as_json)


@click.command()
@click.argument("model", required=False)
@_which_device
@_all
@options.daemon
@options.json_output
def unpin(api: Api, model: str | None, everything: bool, as_json: bool, **said: Any) -> None:
    """Let a pinned model go when its room is needed. It is not unloaded now."""
    _check_target(model, everything)
    what = f"Unpinning {model or 'all models'}"
    _work(api, "unpin", what, {"model": model, **said}, as_json=as_json)


def _check_target(model: str | None, everything: bool) -> None:
    """All models are never meant by accident."""
    if (model is None) != everything:
        raise click.UsageError("say which MODEL, or --all (and not both)")


def _work(api: Api, verb: str, doing: str, body: dict[str, Any], *, as_json: bool) -> None:
    """Ask, wait as long as it takes (visibly, on a terminal), and tell what the daemon said."""
    said = {name: value for name, value in body.items() if value is not None}
    with Console(stderr=True).status(Text(f"{doing} ...")):
        answer = api.post(f"/api/v0/{verb}", said, timeout_s=WORK_TIMEOUT_S)
    click.echo(json.dumps(answer, indent=2) if as_json else answer.get("message", "Done"))
