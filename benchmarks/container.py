"""How large the images are, and how long a container takes until it is ready and to a first token.

    docker build -t lemonade-serve:cpu .
    python -m benchmarks.container [--rounds 9] [--images lemonade-serve:cpu ...] [--cache-dir DIR]

Every round starts the first of the images anew, read-only and without rights: `create` is until its
process has been started, `ready` from there until /readyz says so (asked every 10 ms), and
`first token` from there on, by a request that loads the model. Files are in the page cache. Writes
benchmarks/results/container.json, prints a table.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.daemon import Client
from benchmarks.result import find_checkpoint, parser, quartiles, save
from lemonade_serve.settings import load_settings

_POLL_S = 0.01
_DEADLINE_S = 120.0
_OUTPUT_TOKENS = 8
_HARDENED = (
    *("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--publish=127.0.0.1::1234", "--env=LEMONADE_SERVER__ALLOW_KEYLESS=true"),
)


def docker(*command: str) -> str:
    """What it prints."""
    line = ["docker", *command]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def size(image: str) -> int:
    """Uncompressed, in bytes, with the base."""
    return int(docker("image", "inspect", "--format={{.Size}}", image))


def start(image: str, cache: Path, model: str) -> dict[str, float]:
    """One container's start, in seconds."""
    began = time.time()
    container = docker(
        *("run", "--detach", *_HARDENED, f"--volume={cache}:/var/cache/lemonade:ro", image)
    )
    try:
        port = int(docker("port", container, "1234/tcp").partition("\n")[0].rpartition(":")[2])
        _await_ready(port)
        ready = time.time()
        created = _seconds(docker("inspect", "--format={{.State.StartedAt}}", container))
        first = Client(port).stream(model, "Hello", _OUTPUT_TOKENS).time_to_first_token
    finally:
        docker("rm", "--force", "--volumes", container)
    row = {"create": created - began, "ready": ready - created, "first token": first}
    return {**row, "all": sum(row.values())}


def _await_ready(port: int) -> None:
    until = time.monotonic() + _DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.HTTPError):
            pass
        assert time.monotonic() < until, "the container is not ready"
        time.sleep(_POLL_S)


def _seconds(timestamp: str) -> float:
    """Docker's nanoseconds are too fine for Python."""
    return datetime.datetime.fromisoformat(f"{timestamp[:26]}+00:00").timestamp()


def summary(rows: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Medians, in seconds."""
    return [
        {
            "part": part,
            "s": statistics.median(row[part] for row in rows),
            "quartiles_s": quartiles([row[part] for row in rows]),
        }
        for part in rows[0]
    ]


def main() -> None:
    arguments = parser(__doc__, "container", rounds=9)
    arguments.add_argument("--images", nargs="+", default=["lemonade-serve:cpu"])
    given = arguments.parse_args()
    checkpoint = find_checkpoint(given)
    cache = load_settings(flags={"cache_dir": given.cache_dir}).cache_path.resolve()
    sizes = {image: size(image) for image in given.images}
    rows = [start(given.images[0], cache, given.model) for _ in range(given.rounds)]
    table = summary(rows)
    save(
        __doc__,
        given,
        checkpoint,
        engine=json.loads(docker("version", "--format={{json .Server.Version}}")),
        sizes_bytes=sizes,
        summary=table,
        rounds=rows,
    )
    for image, number in sizes.items():
        print(f"{image:28} {number / 1e6:8.0f} MB")
    print("\nstart            s (quartiles)")
    for row in table:
        low, high = row["quartiles_s"]
        print(f"{row['part']:12} {row['s']:8.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
