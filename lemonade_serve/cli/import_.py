"""`lemonade-serve import`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lemonade_serve.app import create_catalog, create_job_runner
from lemonade_serve.cli import options
from lemonade_serve.domain.imports import import_gguf
from lemonade_serve.settings import Settings, load_settings


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What to call the model.  [default: the file's own name]")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "int4", "int8", "fp32"]),
    help="What the matrices are stored in. auto: what is nearest to the file, at 4 or 8 bit. int4: "
    "for files that are 4 bit already. fp32: exact, large and slow, for verification.",
)
@options.cache_dir
@options.config
@options.json_output
def import_(
    file: Path,
    name: str | None,
    dtype: str,
    cache_dir: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make a checkpoint out of a GGUF file (architectures llama and gemma3).

    What is 4 bit in the file is never quantised to 4 bit again; docs/import.md says what is exact.
    The checkpoint appears all at once when it is complete; one of the same name and dtype gives
    way then.
    """
    settings = load_settings(file=config, flags={"cache_dir": cache_dir})
    path = asyncio.run(import_with_progress(settings, file.absolute(), name, dtype))
    if as_json:
        model = str(path.parent.relative_to(settings.cache_path))
        click.echo(json.dumps({"model": model, "dtype": path.name, "path": str(path)}))
    else:
        click.echo(f"Imported in {path.name}: {path}")


async def import_with_progress(
    settings: Settings, file: Path, name: str | None, dtype: str
) -> Path:
    """Import, with a progress bar on standard error; returns the checkpoint's directory."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)
        return await import_gguf(
            file,
            name,
            dtype,
            jobs=create_job_runner(settings),
            shelf=create_catalog(settings),
            progress=lambda stage, done: bar.update(task, description=stage, completed=done),
        )
