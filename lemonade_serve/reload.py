"""Settings that change while the daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from lemonade_serve import errors
from lemonade_serve.api.clients import Clients
from lemonade_serve.devices.budgets import budgets
from lemonade_serve.devices.memory import read_memory
from lemonade_serve.domain.clients import ClientParams
from lemonade_serve.domain.completion import CompletionService
from lemonade_serve.domain.device import Budgets
from lemonade_serve.domain.placement import Locator
from lemonade_serve.domain.residency.policy import Bounds
from lemonade_serve.domain.residency.pool import Pool
from lemonade_serve.domain.turns import Turns
from lemonade_serve.settings import Settings, read_api_keys
from lemonade_serve.settings.changes import Changes, changes
from lemonade_serve.telemetry.logging import configure_logging

log = structlog.get_logger()


class Reached(NamedTuple):
    """Where settings that can change are in use."""

    clients: Clients
    pool: Pool
    locator: Locator
    params: ClientParams
    service: CompletionService


class _Wanted(NamedTuple):
    """All that a reload needs to know, read and checked before anything changes."""

    changes: Changes
    keys: Mapping[str, str]
    room: Budgets


class Reloader:
    """Puts new settings in force: all that can change at once, between two requests, or nothing."""

    def __init__(
        self,
        settings: Settings,
        reached: Reached,
        preload: Callable[[Sequence[str]], None],
    ) -> None:
        """`preload` is told the models that were not to be loaded before; it does not wait."""
        self.settings = settings
        self._reached = reached
        self._preload = preload

    async def reload(self, read: Callable[[], Settings], allow: Callable[[bool], None]) -> bool:
        """Read the settings and put them in force; says in the log what came of it, and returns
        whether they are good. If they are not, all stays as it is. `read` may block; `allow` is
        told whether there will be API keys; both raise SettingsError."""
        try:
            wanted = await asyncio.to_thread(self._read, read)
            allow(bool(wanted.keys))
        except (errors.SettingsError, OSError) as error:
            log.error("settings_refused", reason=str(error))
            return False
        applied = self._apply(wanted)
        log.info("settings_reloaded", applied=applied)
        if wanted.changes.restart:
            log.warning("settings_need_restart", keys=list(wanted.changes.restart))
        configure_logging(self.settings.log)  # last: what was done is said by the level before
        return True

    def _read(self, read: Callable[[], Settings]) -> _Wanted:
        found = changes(self.settings, read())
        reached = self._reached
        offered = budgets(
            found.in_force.devices, read_memory().usable_bytes, unusable=reached.locator.unusable
        )
        room = {device: offered[device] for device in reached.pool.available}
        return _Wanted(found, read_api_keys(found.in_force), room)

    def _apply(self, wanted: _Wanted) -> list[str]:
        """Names what changed. Nothing in here may fail: it would be half done."""
        before, now = self.settings, wanted.changes.in_force
        applied = list(wanted.changes.applied)
        if self._reached.clients.replace(wanted.keys) and "api_keys" not in applied:
            applied.insert(0, "api_keys")  # the file of them has other lines
        self._reached.locator.default_model = now.default_model
        self._reached.params.defaults = now.parameters
        self._reached.service.turns = turns(now)
        self._reached.pool.reconfigure(wanted.room, bounds(now))
        self.settings = now
        self._preload([name for name in now.pool.preload if name not in before.pool.preload])
        return applied


def turns(settings: Settings) -> Turns:
    """How requests wait for theirs."""
    return Turns(
        timeout_s=settings.pool.queue_timeout_s, client_weights=settings.worker.client_weights
    )


def bounds(settings: Settings) -> Bounds:
    """What the pool keeps to."""
    return Bounds(
        sequence_slots=settings.worker.sequence_slots,
        max_queue=settings.worker.max_queue,
        max_client_queue=settings.worker.max_client_queue,
        kv_cache_tokens=settings.worker.kv_cache_tokens,
        min_residency_s=settings.pool.min_residency_s,
        max_wait_s=settings.pool.max_wait_s,
        queue_timeout_s=settings.pool.queue_timeout_s,
        idle_ttl_s=settings.pool.idle_ttl_s or None,
        load_cooldown_s=settings.pool.load_cooldown_s,
        unload_timeout_s=settings.pool.unload_timeout_s,
        encode_batch_tokens=settings.worker.encode_batch_tokens,
        encode_input_tokens=settings.worker.encode_input_tokens,
    )
