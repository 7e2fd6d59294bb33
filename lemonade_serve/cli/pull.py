"""`lemonade-serve pull`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lemonade_serve.app import create_catalog, create_puller
from lemonade_serve.cli import options
from lemonade_serve.devices.budgets import execution_providers
from lemonade_serve.domain.fetcher import Pulled
from lemonade_serve.domain.orders import Order, order
from lemonade_serve.settings import Settings, load_settings


@click.command()
@click.argument("repository", metavar="REPO[@REVISION]")
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Choose among these files only, such as 'cpu/*' or '*Q8_0.gguf'; may be given again.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "int4", "int8", "fp16", "bf16", "fp32"]),
    help="What the matrices are to be. auto: 4 bit if there is such a one, of encoders float32.",
)
@click.option("--name", help="What to call the model here.  [default: as the repository is called]")
@options.cache_dir
@options.config
@options.json_output
def pull(
    repository: str,
    cache_dir: str | None,
    config: Path | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Get a model from the Hugging Face hub: ONNX GenAI files and encoders' graphs as they are, a
    GGUF file by import, safetensors by conversion, where there is what that takes (`lemonade-serve
    convert --help`).

    Only the files of one variant are fetched: the one for this machine's devices and --dtype. What
    another time left unfinished is gone on with, and what other programs have fetched already is
    used. HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HTTPS_PROXY mean what they always do.
    """
    settings = load_settings(file=config, flags={"cache_dir": cache_dir})
    said = order(repository, **wanted)
    pulled = asyncio.run(pull_with_progress(settings, said))
    if as_json:
        info = pulled.info
        told = {"model": info.name, "dtype": info.dtype, "path": str(info.path)}
        click.echo(json.dumps({**told, "commit": pulled.commit, "new": pulled.new}))
    else:
        done = "Pulled" if pulled.new else "Already here"
        click.echo(f"{done}, in {pulled.info.dtype}: {pulled.info.path}")


async def pull_with_progress(settings: Settings, said: Order) -> Pulled:
    """With a progress bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)
        providers = execution_providers(settings.devices)
        puller = create_puller(settings, create_catalog(settings), providers)
        return await puller.pull(
            said, lambda stage, done: bar.update(task, description=stage, completed=done)
        )
