"""`lemonade-serve params`: the generation parameters that a client keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from lemonade_serve.cli import options, table
from lemonade_serve.cli.client import Api, read

_PATH = "/api/v0/params"
_model = click.option("--model", help="For this model only.")


class _Params(msgspec.Struct, frozen=True, kw_only=True):
    params: dict[str, Any]
    sources: dict[str, str] = {}


@click.group()
def params() -> None:
    """Generation parameters that hold for all requests of a client, until they are changed.

    \b
    lemonade-serve params get
    lemonade-serve params set temperature=0.2 max_length=500
    lemonade-serve params set stop='["END", "###"]' --model SmolLM2-135M-Instruct
    lemonade-serve params set temperature=
    lemonade-serve params reset

    They survive restarts of the daemon. What a request says itself wins, then what was set for its
    model, then what was set for all models, then the daemon's settings. Who the client is says the
    API key, or --client.
    """


@params.command("get")
@_model
@options.daemon
@options.json_output
def get(api: Api, model: str | None, as_json: bool) -> None:
    """Show what is in force, and where each value comes from."""
    answer = api.get(_PATH, model=model)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    known = read(answer, _Params)
    rows = table.columns("PARAMETER", "VALUE", "FROM")
    for name, value in known.params.items():
        rows.add_row(name, _shown(value), known.sources.get(name, "-"))
    table.show(rows)


@params.command("set")
@click.argument("changes", metavar="NAME=VALUE...", nargs=-1, required=True)
@_model
@options.daemon
@options.json_output
def set_(api: Api, changes: Sequence[str], model: str | None, as_json: bool) -> None:
    """Change parameters, all of them or none.

    VALUE is JSON (0.2, true, ["a", "b"]), or else a text as it is. null, or nothing after the =,
    puts a parameter back to its default.
    """
    _change(api, dict(map(_parsed, changes)), model, as_json=as_json)


@params.command("reset")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@_model
@options.daemon
@options.json_output
def reset(api: Api, names: Sequence[str], model: str | None, as_json: bool) -> None:
    """Put parameters back to their defaults.

    Without a NAME, everything that this client ever set is forgotten; with --model, what it set
    for that model.
    """
    if names:
        _change(api, dict.fromkeys(map(_name, names)), model, as_json=as_json)
        return
    answer = api.delete(_PATH, model=model)
    click.echo(json.dumps(answer, indent=2) if as_json else answer.get("message", "Done"))


def _change(api: Api, changes: Mapping[str, Any], model: str | None, *, as_json: bool) -> None:
    scope = {} if model is None else {"model": model}
    answer = api.post(_PATH, {**changes, **scope})
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    in_force = read(answer, _Params).params
    for name in changes:
        click.echo(f"{name}={_shown(in_force.get(name))}")


def _parsed(change: str) -> tuple[str, Any]:
    name, said, value = change.partition("=")
    if not said:
        raise click.UsageError(f"{change!r} is not NAME=VALUE")
    return _name(name), _value(value)


def _name(name: str) -> str:
    """One that is not taken by the request's own fields."""
    if name == "model":
        raise click.UsageError("model is no parameter: say --model to set those of a model")
    return name


def _value(text: str) -> Any:
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
