"""The daemon itself."""

from __future__ import annotations

from grafana.panels import (
    GREEN,
    RED,
    YELLOW,
    Panel,
    Stat,
    Target,
    word,
)
from grafana.queries import (
    INSTANCE,
    WINDOW,
)


def process() -> list[Panel]:
    def of(series: str) -> str:
        return f"{series}{{{INSTANCE}}}"

    up = [{"options": {"0": word("down", RED), "1": word("up", GREEN)}, "type": "value"}]
    yes = [{"options": {"0": word("no", GREEN), "1": word("yes", YELLOW)}, "type": "value"}]
    return [
        Stat(
            "Up",
            "Whether Prometheus reached the daemon at its last try.",
            Target(of("up"), "{{instance}}"),
            unit="short",
            width=4,
            steps=[(1, GREEN)],
            mappings=up,
        ),
        Stat(
            "Version",
            "What runs.",
            Target(of("lemonade_build_info"), "{{version}}"),
            unit="short",
            width=4,
            text="name",
        ),
        Stat(
            "Draining",
            "Shutting down: running requests finish, new ones are refused.",
            Target(of("lemonade_draining"), "{{instance}}"),
            unit="short",
            width=4,
            mappings=yes,
        ),
        Stat(
            "Uptime",
            "Of the daemon's process.",
            Target(f"time() - {of('process_start_time_seconds')}", "{{instance}}"),
            unit="s",
            width=4,
        ),
        Panel(
            "Scrape duration",
            "How long Prometheus waited for the metrics.",
            Target(of("scrape_duration_seconds"), "{{instance}}"),
            unit="s",
        ),
        Panel(
            "CPU of the daemon",
            "Without its workers, which compute.",
            Target(f"rate({of('process_cpu_seconds_total')}{WINDOW})", "{{instance}}"),
            unit="percentunit",
        ),
        Panel(
            "Memory of the daemon",
            "Resident, without its workers: those are in `Memory by model`.",
            Target(of("process_resident_memory_bytes"), "{{instance}}"),
            unit="bytes",
        ),
        Panel(
            "Open files",
            "Descriptors in use, to those allowed: each connection takes one.",
            Target(f"{of('process_open_fds')} / {of('process_max_fds')}", "{{instance}}"),
            unit="percentunit",
            max=1,
            steps=[(0.8, RED)],
        ),
    ]
