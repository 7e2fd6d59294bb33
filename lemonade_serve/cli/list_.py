"""`lemonade-serve list`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.filesize import decimal
from rich.table import Table

from lemonade_serve.app import create_catalog
from lemonade_serve.cli import options, table
from lemonade_serve.domain.checkpoint import CheckpointInfo
from lemonade_serve.domain.names import joined
from lemonade_serve.settings import load_settings


@click.command("list")
@options.cache_dir
@options.config
@options.json_output
def list_(cache_dir: str | None, config: Path | None, as_json: bool) -> None:
    """Show the checkpoints on this machine."""
    settings = load_settings(file=config, flags={"cache_dir": cache_dir})
    checkpoints = create_catalog(settings).list()
    if as_json:
        click.echo(json.dumps([_row(info) for info in checkpoints], indent=2))
    elif checkpoints:
        table.show(_table(checkpoints))
    else:
        click.echo(f"No checkpoint in {settings.cache_path}: try `lemonade-serve import FILE.gguf`")


def _row(info: CheckpointInfo) -> dict[str, object]:
    known = {**msgspec.structs.asdict(info), "path": str(info.path), "task": info.task.value}
    del known["encoder"]
    known["adapters"] = [adapter.name for adapter in info.adapters]
    return known


def _table(checkpoints: Sequence[CheckpointInfo]) -> Table:
    rows = table.columns(
        "MODEL", "DTYPE", "ARCHITECTURE", "CONTEXT", "SIZE", "REVISION", figures=("CONTEXT", "SIZE")
    )
    for info in checkpoints:
        size, context = decimal(info.bytes), str(info.context_length)
        rows.add_row(
            info.name, info.dtype, info.architecture, context, size, (info.commit or "")[:12]
        )
        for adapter in info.adapters:
            name = joined(info.name, adapter.name)
            rows.add_row(name, info.dtype, "adapter", "", decimal(adapter.bytes), "")
    return rows
