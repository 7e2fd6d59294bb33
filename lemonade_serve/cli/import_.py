"""`lemonade-serve import`."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from pathlib import Path

import click

from lemonade_serve.app import create_catalog, create_job_runner
from lemonade_serve.cli import options
from lemonade_serve.cli.bar import progress_bar
from lemonade_serve.domain.checkpoint import CheckpointInfo, check_name
from lemonade_serve.domain.imports import import_gguf
from lemonade_serve.errors import InvalidRequest
from lemonade_serve.hub.origin import Here, Origin, find_origin
from lemonade_serve.settings import Settings, load_settings

_NONE = "none"


@click.command("import")
@click.argument("source")
@click.option("--name", help="What to call the model.  [default: the file's own name]")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "int4", "int8", "fp32"]),
    help="What the matrices are stored in. auto: what is nearest to the file, at 4 or 8 bit. int4: "
    "for files that are 4 bit already. fp32: exact, large and slow, for verification.",
)
@click.option(
    "--if-missing", is_flag=True, help="Do nothing where there is a checkpoint of it already."
)
@options.cache_dir
@options.config
@options.json_output
def import_(  # noqa: PLR0913, one for each option
    *,
    source: str,
    name: str | None,
    dtype: str,
    if_missing: bool,
    cache_dir: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make a checkpoint out of a GGUF file.

    Its architecture: gemma3, granite, llama (Mistral too), phi3, qwen2 or qwen3.

    SOURCE is a file, or an http(s) address of one, with `#sha256=...` behind it where that is
    known; `demo` is the file of `lemonade-serve demo`; `none` is nothing, for scripts.

    What is 4 bit in the file is never quantised to 4 bit again; docs/import.md says what is exact.
    The checkpoint appears all at once when it is complete; one of the same name and dtype gives
    way then.
    """
    if source == _NONE:
        click.echo("Nothing is imported: the source is `none`.", err=True)
        return
    settings = load_settings(file=config, flags={"cache_dir": cache_dir})
    try:
        origin = find_origin(source)
    except InvalidRequest as error:
        raise click.BadParameter(error.message, param_hint="SOURCE") from error
    if if_missing and (found := _find(settings, origin, name, dtype)):
        model, made_as, path = found.name, found.dtype, found.path
        said = f"{origin} is here already"
    else:
        path = asyncio.run(bring_and_import(settings, origin, name, dtype))
        model, made_as = str(path.parent.relative_to(settings.cache_path.resolve())), path.name
        said = f"Imported in {made_as}"
    if as_json:
        click.echo(json.dumps({"model": model, "dtype": made_as, "path": str(path)}))
    else:
        click.echo(f"{said}: {path}")


async def bring_and_import(
    settings: Settings, origin: Origin, name: str | None, dtype: str = "auto"
) -> Path:
    """Import, with a progress bar on standard error; returns the checkpoint's directory.

    What has to be downloaded goes to the cache directory meanwhile: it may be large, and in a
    container /tmp is memory.
    """
    if name is not None:
        check_name(name)
    catalog = create_catalog(settings)
    room = nullcontext(Path()) if isinstance(origin, Here) else catalog.staging()
    with room as scratch, progress_bar() as progress:
        click.echo(f"Importing {origin} ...", err=True)
        file = await asyncio.to_thread(origin.bring, scratch, progress)
        jobs = create_job_runner(settings)
        return await import_gguf(file, name, dtype, jobs=jobs, shelf=catalog, progress=progress)


def _find(
    settings: Settings, origin: Origin, name: str | None, dtype: str
) -> CheckpointInfo | None:
    """What was made of that file, under that name and in that dtype if they are said."""
    for info in create_catalog(settings).imported_from(origin.file_name):
        if name in (None, info.name) and dtype in ("auto", info.dtype):
            return info
    return None
