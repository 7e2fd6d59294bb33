"""`lemonade-serve show`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.filesize import decimal

from lemonade_serve.app import create_catalog
from lemonade_serve.cli import options, table
from lemonade_serve.domain.checkpoint import AUTO, CheckpointInfo, choose
from lemonade_serve.domain.names import parse
from lemonade_serve.domain.provenance import Provenance
from lemonade_serve.errors import ModelNotFound
from lemonade_serve.protocol.messages import Adapter
from lemonade_serve.settings import load_settings
from lemonade_serve.store.aliases import FILE, FileAliasStore


@click.command()
@click.argument("model")
@options.cache_dir
@options.state_dir
@options.config
@options.json_output
def show(model: str, config: Path | None, as_json: bool, **flags: str | None) -> None:
    """What a model is, what it can do, and where it came from: in each dtype, or in that of
    NAME:DTYPE; or the one that has the adapter of NAME:ADAPTER.
    """
    settings = load_settings(file=config, flags=flags)
    meant = FileAliasStore(settings.state_path / FILE).load().get(model, model)
    name, dtype, adapter = parse(meant)
    catalog = create_catalog(settings)
    found = [one for one in catalog.list() if one.name == name and dtype in (AUTO, one.dtype)]
    if not found:
        raise ModelNotFound(
            f"there is no model {meant!r} in {settings.cache_path}: `lemonade-serve list` shows "
            "what there is"
        )
    if adapter:
        found = [choose(dtype, found, adapter)]
    told = [(one, catalog.provenance(one)) for one in found]
    if as_json:
        click.echo(json.dumps([_object(*one) for one in told], indent=2))
        return
    for one in told:
        rows = table.columns("", "")
        for what, value in _lines(*one):
            rows.add_row(what, value)
        table.show(rows)


def _object(info: CheckpointInfo, origin: Provenance) -> dict[str, Any]:
    return {
        "model": info.name,
        "dtype": info.dtype,
        "path": str(info.path),
        "bytes": info.bytes,
        "memory_bytes": info.memory_bytes,
        "architecture": info.architecture,
        "context_length": info.context_length,
        "capabilities": info.capabilities,
        "adapters": [_adapter(adapter) for adapter in info.adapters],
        "provenance": msgspec.to_builtins(origin),
    }


def _adapter(adapter: Adapter) -> dict[str, Any]:
    return {"name": adapter.name, "path": adapter.path, "bytes": adapter.bytes}


def _lines(info: CheckpointInfo, origin: Provenance) -> Iterator[tuple[str, str]]:
    yield "model", info.name
    yield "dtype", info.dtype
    yield "architecture", info.architecture
    yield "capabilities", ", ".join(info.capabilities)
    yield "context length", f"{info.context_length} tokens"
    yield "on disk", f"{decimal(info.bytes)}, {info.path}"
    cache = "" if info.encoder else ", and its KV cache"
    yield "in memory", f"about {decimal(info.memory_bytes)}{cache}"
    for adapter in info.adapters:
        yield "adapter", f"{adapter.name}  {decimal(adapter.bytes)}, {adapter.path}"
    yield "license", origin.license or "not known"
    if source := origin.source:
        pulled = datetime.fromtimestamp(source.pulled_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield "repository", source.repository
        yield "revision", f"{source.revision}, commit {source.commit}"
        yield "made", f"{source.how}, by {source.program}, {pulled}"
        for file in source.files:
            yield "", f"{file.path}  {decimal(file.bytes)}  sha256 {file.sha256}"
    elif made := origin.conversion:
        yield "made", f"converted from {made.source}, by {', '.join(made.programs)}"
        for converted in made.files:
            yield "", f"{converted.path}  {decimal(converted.bytes)}  sha256 {converted.sha256}"
    elif origin.importer:
        yield "made", f"imported from {origin.source_file}, by {origin.importer}"
        yield "", f"sha256 {origin.source_sha256}"
    else:
        yield "made", "not known: there is no provenance.json beside it"
    if made := origin.conversion:
        rounded = f", {made.recipe.algorithm}, blocks of {made.recipe.block_size}"
        how = rounded if made.recipe.algorithm else ""
        yield "matrices", f"{made.recipe.dtype} for {made.recipe.execution_provider}{how}"
        yield "checked", made.found
    if origin.lossless is not None:
        yield "matrices", f"{origin.lossless} exact, {origin.requantised or 0} rounded to 8 bit"
