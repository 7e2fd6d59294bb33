"""`lemonade-serve doctor`."""

from __future__ import annotations

import asyncio
import json
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.text import Text

from lemonade_serve.cli import options, places
from lemonade_serve.cli.listening import is_keyless
from lemonade_serve.devices import checks
from lemonade_serve.devices.budgets import budgets
from lemonade_serve.devices.container import is_container, pass_on
from lemonade_serve.devices.cpus import read_cpus
from lemonade_serve.devices.finding import Finding, Level
from lemonade_serve.devices.memory import read_memory
from lemonade_serve.devices.nodes import read_nodes
from lemonade_serve.devices.providers import CPU, Probed, probe
from lemonade_serve.devices.survey import Survey, survey
from lemonade_serve.domain.device import ExecutionProvider
from lemonade_serve.errors import LemonadeError, SettingsError
from lemonade_serve.settings import Settings, Sourced, load_sourced, read_api_keys, read_headers

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_SECRETS = ("api_keys.", "database_url", "tracing.endpoint", "tracing.headers.")


@click.command()
@options.cache_dir
@options.state_dir
@options.config
@options.json_output
@click.option("--docker", is_flag=True, help="Print what a container needs for these devices.")
@click.option("--compose", is_flag=True, help="The same, as an overlay for Docker Compose.")
def doctor(
    cache_dir: str | None,
    state_dir: str | None,
    config: Path | None,
    as_json: bool,
    docker: bool,
    compose: bool,
) -> None:
    """Look at this machine: settings, memory, CPUs, devices, directories, address.

    Nothing is changed. The status is 1 when something would keep the daemon, or what the settings
    say, from working.

    --docker prints, on the host, the flags for `docker run` that pass its NPU and GPU to a
    container, the image last; --compose the same as an overlay. The status is 1 inside a
    container, which sees no more than it was given.
    """
    if docker or compose:
        sys.exit(_show_passing(as_json=as_json, compose=compose))
    findings = list(examine(config, {"cache_dir": cache_dir, "state_dir": state_dir}))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings), indent=2))
    else:
        console = Console()
        for finding in findings:
            console.print(_line(finding), soft_wrap=True)
    if any(finding.level is Level.FAIL for finding in findings):
        sys.exit(1)


def _show_passing(*, as_json: bool, compose: bool) -> int:
    """Returns the command's status."""
    passing, inside = pass_on(read_nodes()), is_container()
    if as_json:
        click.echo(json.dumps({**msgspec.to_builtins(passing), "in_container": inside}, indent=2))
    else:
        click.echo(passing.compose() if compose else shlex.join(passing.flags()))
    if inside:
        click.echo("This is a container, and sees what it was given: ask on the host.", err=True)
    for note in passing.notes:
        click.echo(note, err=True)
    return int(inside)


def examine(file: Path | None, flags: Mapping[str, str | None]) -> Iterator[Finding]:
    """All findings, as they come."""
    try:
        sourced = load_sourced(file=file, flags=flags)
    except SettingsError as error:
        advice = "correct it; what follows is about the default settings"
        yield Finding(Level.FAIL, "settings", error.message, advice)
        sourced = load_sourced(environment={}, flags=flags)
    else:
        yield from _trying("settings", lambda: _check_settings(sourced))
    settings = sourced.settings
    yield from _trying("devices", lambda: _check_machine(settings))
    yield from _trying("cache_dir", lambda: places.check_cache(settings.cache_path))
    yield from _trying("state_dir", lambda: [places.check_state(settings.state_path)])
    yield from _trying("server", lambda: [places.check_address(settings.server)])


def _trying(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except (LemonadeError, OSError) as error:
        yield Finding(Level.FAIL, subject, str(error))


def _check_settings(sourced: Sourced) -> Iterator[Finding]:
    origins = list(dict.fromkeys(sourced.sources.values())) or ["all defaults"]
    settings = sourced.settings
    keys = read_api_keys(settings)
    yield Finding(Level.OK, "settings", f"{', '.join(origins)}; {len(keys)} API keys")
    if settings.tracing.endpoint:
        read_headers(settings.tracing)
    for path in _secret_files(sourced):
        if path.stat().st_mode & stat.S_IROTH:
            said = f"{path} has secrets in it, and all users can read it"
            yield Finding(Level.WARN, "settings", said, f"chmod o-r {path}")
    if is_keyless(settings.server, keys=bool(keys)):
        said = f"anyone who reaches {settings.server.host} is served: there are no API keys"
        yield Finding(Level.WARN, "settings", said, "set api_keys, if others than you reach it")


def _secret_files(sourced: Sourced) -> set[Path]:
    """Files of keys or passwords, among those that were read."""
    named = (source for key, source in sourced.sources.items() if key.startswith(_SECRETS))
    files = {Path(source) for source in named if Path(source).is_file()}
    settings = sourced.settings
    own = settings.api_keys_file, settings.tracing.headers_file
    return files | {Path(file).expanduser() for file in own if file}


def _check_machine(settings: Settings) -> Iterator[Finding]:
    memory = read_memory()
    yield checks.check_memory(memory)
    yield checks.check_cpus(read_cpus(), settings.worker.threads)
    onnxruntime, looked = asyncio.run(_look(settings))
    yield checks.check_onnxruntime(onnxruntime)
    yield from map(checks.check_node, read_nodes())
    yield from looked.findings.values()
    offered = budgets(settings.devices, memory.usable_bytes, unusable=looked.unusable)
    yield from checks.check_budgets(offered, memory)


async def _look(settings: Settings) -> tuple[Probed, Survey]:
    cpu = ExecutionProvider(name=CPU, hardware=CPU)
    return await asyncio.gather(
        probe(cpu, timeout_s=settings.devices.probe_timeout_s), survey(settings.devices)
    )


def _line(finding: Finding) -> Text:
    level = finding.level
    line = Text.assemble(
        (f"{level.value:<4}", _STYLES[level]), f"  {finding.subject:<12}  {finding.said}"
    )
    return line.append(f"\n      {finding.advice}", "dim") if finding.advice else line
