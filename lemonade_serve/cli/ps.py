"""`lemonade-serve ps`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click
import msgspec
from rich.filesize import decimal
from rich.table import Table

from lemonade_serve.cli import options, table
from lemonade_serve.cli.client import Api, read

_NOTHING = "-"


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    """What is None is not known before the model is loaded."""

    model_name: str
    device: str
    dtype: str
    state: str
    pinned: bool
    is_busy: bool
    requests_running: int
    requests_waiting: int
    memory_bytes: int | None
    last_use: float
    pid: int | None
    engine: str | None
    engine_reason: str | None


class _Device(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    execution_provider: str
    max_models: int
    models: int
    memory_budget_bytes: int
    memory_used_bytes: int


class _Unusable(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    execution_provider: str
    reason: str
    advice: str


class _Health(msgspec.Struct, frozen=True, kw_only=True):
    all_models_loaded: list[_Model]
    devices: list[_Device]
    unusable_devices: list[_Unusable] = []


@click.command()
@options.daemon
@options.json_output
def ps(api: Api, as_json: bool) -> None:
    """Show which models are in memory, and how much room is left.

    REQUESTS is running+waiting; IDLE is the time since a model was used last. The second table says
    why an engine serves what it serves. The last one has a line for each device: models of at most
    so many, memory of at most so much; below it are the devices that cannot serve, and why.
    Looking loads nothing and keeps nothing in memory.
    """
    answer = api.get("/api/v0/health")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    health = read(answer, _Health)
    if health.all_models_loaded:
        table.show(_models(health.all_models_loaded, time.time()))
        if engines := _engines(health.all_models_loaded):
            click.echo()
            table.show(engines)
    else:
        click.echo("No model is loaded: a request loads what it needs, or `lemonade-serve load`")
    click.echo()
    table.show(_devices(health.devices))
    if health.unusable_devices:
        click.echo()
        table.show(_unusable(health.unusable_devices))


def _models(models: Sequence[_Model], now: float) -> Table:
    rows = table.columns(
        *("MODEL", "DEVICE", "DTYPE", "STATE", "PINNED", "REQUESTS", "MEMORY", "IDLE", "PID"),
        "ENGINE",
        figures=("REQUESTS", "MEMORY", "IDLE", "PID"),
    )
    for model in models:
        rows.add_row(
            *(model.model_name, model.device, model.dtype, model.state),
            "yes" if model.pinned else _NOTHING,
            f"{model.requests_running}+{model.requests_waiting}",
            decimal(model.memory_bytes) if model.memory_bytes else _NOTHING,
            _NOTHING if model.is_busy else _duration(now - model.last_use),
            str(model.pid or _NOTHING),
            model.engine or _NOTHING,
        )
    return rows


def _engines(models: Sequence[_Model]) -> Table | None:
    """None where no model is loaded yet."""
    served: dict[tuple[str, str], list[str]] = {}
    for model in models:
        if model.engine and model.engine_reason:
            names = served.setdefault((model.engine, model.engine_reason), [])
            if model.model_name not in names:
                names.append(model.model_name)
    rows = table.columns("ENGINE", "SERVES", "BECAUSE")
    for (engine, reason), names in served.items():
        rows.add_row(engine, ", ".join(names), reason)
    return rows if served else None


def _devices(devices: Sequence[_Device]) -> Table:
    rows = table.columns(*("DEVICE", "PROVIDER", "MODELS", "MEMORY"), figures=("MODELS", "MEMORY"))
    for device in devices:
        rows.add_row(
            *(device.device, device.execution_provider),
            f"{device.models}/{device.max_models}",
            f"{decimal(device.memory_used_bytes)}/{decimal(device.memory_budget_bytes)}",
        )
    return rows


def _unusable(devices: Sequence[_Unusable]) -> Table:
    rows = table.columns("UNUSABLE", "PROVIDER", "BECAUSE", "REMEDY")
    for device in devices:
        rows.add_row(device.device, device.execution_provider, device.reason, device.advice)
    return rows


def _duration(seconds: float) -> str:
    """In the largest unit that it fills. The clocks of two machines may differ."""
    whole = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
