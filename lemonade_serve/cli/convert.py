"""`lemonade-serve convert`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import msgspec

from lemonade_serve.app import create_catalog, create_workshops
from lemonade_serve.cli import options
from lemonade_serve.cli.bar import progress_bar
from lemonade_serve.devices.budgets import execution_providers
from lemonade_serve.devices.providers import short
from lemonade_serve.domain.conversions import convert_directory
from lemonade_serve.errors import DeviceUnavailable
from lemonade_serve.hub import encoders, provenance
from lemonade_serve.settings import Settings, load_settings


@click.command()
@click.argument(
    "source", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path)
)
@click.option("--name", help="What to call the model.  [default: as SOURCE is called]")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "int4", "int8", "fp16", "bf16", "fp32"]),
    help="What the matrices are to be. auto: int4, of encoders fp32. bf16, and but for encoders "
    "fp16, are for GPUs.",
)
@click.option(
    "--device",
    type=click.Choice(["npu", "igpu", "cpu"]),
    help="What it is to run on.  [default: the preferred one that something can be made for]",
)
@click.option(
    "--algorithm",
    help="How int4 is rounded: default, rtn, k_quant, k_quant_last, k_quant_mixed.  "
    "[default: convert.algorithm]",
)
@click.option(
    "--block-size", type=int, help="So many weights share a scale.  [default: convert.block_size]"
)
@options.cache_dir
@options.config
@options.json_output
def convert(  # noqa: PLR0913, one for each option
    *,
    source: Path,
    name: str | None,
    dtype: str,
    device: str | None,
    algorithm: str | None,
    block_size: int | None,
    cache_dir: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make a checkpoint out of a model as the hub has it: a directory of config.json, safetensors
    and a tokenizer.

    It is done by the environment of `convert.python`, which has the extra `export`
    (docs/convert.md). Before it appears it is checked: it loads, it answers, and its perplexity is
    near the source's; `lemonade-serve show` says how near.
    """
    flags: dict[str, Any] = {"cache_dir": cache_dir}
    flags["convert"] = {"algorithm": algorithm, "block_size": block_size}
    settings = load_settings(file=config, flags=flags)
    path = asyncio.run(_convert(settings, source, name, dtype, device))
    found = provenance.read(path).conversion
    model, made_as = str(path.parent.relative_to(settings.cache_path.resolve())), path.name
    if as_json:
        told = {"model": model, "dtype": made_as, "path": str(path)}
        check = found and (found.check or found.closeness)
        click.echo(json.dumps({**told, "check": msgspec.to_builtins(check)}))
    else:
        click.echo(f"Converted to {made_as}: {path}")
        if found:
            click.echo(f"Checked: {found.found}")


async def _convert(
    settings: Settings, source: Path, name: str | None, dtype: str, device: str | None
) -> Path:
    providers = execution_providers(settings.devices)
    if device:
        provider = getattr(settings.devices, device).execution_provider
        if not provider:
            raise DeviceUnavailable(f"no {device} is offered: set devices.{device}")
        providers = (short(provider),)
    workshops = create_workshops(settings)
    conversions = workshops.encoders if encoders.weighs(source) else workshops.decoders
    recipe = conversions.recipe(dtype, providers)
    with progress_bar() as progress:
        return await convert_directory(
            source,
            name,
            recipe,
            conversions=conversions,
            shelf=create_catalog(settings),
            progress=progress,
        )
