"""`lemonade-serve alias`."""

from __future__ import annotations

from pathlib import Path

import click

from lemonade_serve.cli import options, table
from lemonade_serve.cli.client import Api
from lemonade_serve.cli.places import is_held
from lemonade_serve.domain.aliases import with_alias, without_alias
from lemonade_serve.settings import Settings, load_settings
from lemonade_serve.store.aliases import FILE, FileAliasStore
from lemonade_serve.store.directory import LOCK, StateDirectory


@click.command()
@click.argument("name", required=False)
@click.argument("model", required=False)
@click.option("--remove", is_flag=True, help="Let NAME stand for nothing any more.")
@options.state_dir
@options.config
@options.daemon
def alias(
    api: Api,
    name: str | None,
    model: str | None,
    remove: bool,
    state_dir: str | None,
    config: Path | None,
) -> None:
    """Let NAME stand for MODEL, wherever a model is named; without either, show what does.

    MODEL may say a revision, a dtype or an adapter: OWNER/NAME@REVISION, NAME:int8, NAME:ADAPTER.
    It stays over restarts, and the model need not be here yet. Where a daemon runs it is told.
    """
    if remove != (name is not None and model is None):
        raise click.UsageError("say NAME and MODEL, NAME and --remove, or nothing")
    settings = load_settings(file=config, flags={"state_dir": state_dir})
    if name is None:
        _show(settings)
    elif is_held(settings.state_path / LOCK):
        _tell(api, name, model)
    else:
        _keep(settings, name, model)


def _show(settings: Settings) -> None:
    rows = table.columns("ALIAS", "MODEL")
    for alias, model in sorted(FileAliasStore(settings.state_path / FILE).load().items()):
        rows.add_row(alias, model)
    table.show(rows)


def _tell(api: Api, name: str, model: str | None) -> None:
    if model is None:
        answer = api.delete("/api/v0/aliases", alias=name)
    else:
        answer = api.post("/api/v0/aliases", {"alias": name, "model": model})
    click.echo(answer["message"])


def _keep(settings: Settings, name: str, model: str | None) -> None:
    """While no daemon comes up."""
    with StateDirectory(settings.state_path) as state:
        store = FileAliasStore(state.path / FILE)
        names = store.load()
        store.save(without_alias(names, name) if model is None else with_alias(names, name, model))
    click.echo(f"{name} stands for {model or 'nothing any more'}")
