"""`lemonade-serve rm`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.filesize import decimal

from lemonade_serve.app import create_catalog
from lemonade_serve.cli import options
from lemonade_serve.cli.client import WORK_TIMEOUT_S, Api
from lemonade_serve.cli.places import is_held
from lemonade_serve.domain.catalogue import the_one
from lemonade_serve.domain.checkpoint import AUTO
from lemonade_serve.settings import Settings, load_settings
from lemonade_serve.store.directory import LOCK, StateDirectory
from lemonade_serve.store.pins import FILE as PINS
from lemonade_serve.store.pins import FilePinStore


@click.command()
@click.argument("model")
@click.option("--dtype", default=AUTO, help="Which one, where there are several.")
@click.option("--force", is_flag=True, help="Even if it is in memory: its requests are cut.")
@options.cache_dir
@options.state_dir
@options.config
@options.daemon
def rm(
    api: Api,
    model: str,
    dtype: str,
    force: bool,
    config: Path | None,
    **flags: str | None,
) -> None:
    """Take a model off the disk, and its pin with it.

    What was downloaded for it goes out of the hub's cache too, unless something else there uses
    it. Where a daemon runs it is asked to do that: a model in its memory stays, without --force.
    """
    settings = load_settings(file=config, flags=flags)
    if is_held(settings.state_path / LOCK):
        said = {"model": model, "dtype": dtype, "force": "true" if force else None}
        answer = api.delete("/api/v0/models", timeout_s=WORK_TIMEOUT_S, **said)
        click.echo(answer["message"])
    else:
        click.echo(_remove(settings, model, dtype))


def _remove(settings: Settings, model: str, dtype: str) -> str:
    """While no daemon comes up."""
    catalog = create_catalog(settings)
    with StateDirectory(settings.state_path) as state:
        info = the_one(model, dtype, catalog.list())
        store = FilePinStore(state.path / PINS)
        pins = store.load()
        staying = frozenset(p for p in pins if (p.model, p.dtype) != (info.name, info.dtype))
        if staying != pins:
            store.save(staying)
        catalog.remove(info)
    return f"Model removed successfully: {info.name} in {info.dtype}, {decimal(info.bytes)}"
