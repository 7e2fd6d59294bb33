"""`lemonade-serve config`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from lemonade_serve.cli import options
from lemonade_serve.settings import load_sourced
from lemonade_serve.settings.listing import Entry, entries

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 48


@click.command("config")
@options.config
@options.json_output
def config_(config: Path | None, as_json: bool) -> None:
    """Show the settings in force, and where each comes from.

    What is printed is TOML again, but that keys and passwords are stars.
    """
    found = entries(load_sourced(file=config))
    if as_json:
        rows = {entry.key: {"value": entry.value, "source": entry.source} for entry in found}
        click.echo(json.dumps(rows, indent=2))
        return
    for entry in found:
        source = click.style(f"# {entry.source}", dim=True)
        click.echo(f"{_line(entry):<{_WIDTH}}   {source}")


def _line(entry: Entry) -> str:
    key = ".".join(name if _BARE.fullmatch(name) else _toml(name) for name in entry.path)
    # TOML has no word for nothing
    return f"# {key} is not set" if entry.value is None else f"{key} = {_toml(entry.value)}"


def _toml(value: object) -> str:
    """The types of an Entry are written as in JSON; its only table is an empty one."""
    return json.dumps(value, ensure_ascii=False)
