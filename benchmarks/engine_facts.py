"""What onnxruntime-genai does, where our design leans on it.

    python -m benchmarks.engine_facts CHECKPOINT_DIRECTORY

Prints how long Python stands still in native calls, what a Generator's KV cache costs to make, and
how the logits of a prompt depend on how it is cut.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og

_PROMPT = [int(t) for t in np.random.default_rng(0).integers(100, 30_000, 300)]


def _load(directory: str) -> og.Model:
    config = og.Config(directory)
    options = {"intra_op_num_threads": len(os.sched_getaffinity(0))}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return og.Model(config)


def _generator(model: og.Model, capacity: int) -> og.Generator:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=capacity, batch_size=1)
    return og.Generator(model, params)


def _longest_standstill(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds that `act` took, and the longest in which another thread could not run."""
    ticks, stop = [time.perf_counter()], threading.Event()

    def tick() -> None:
        while not stop.wait(0.0005):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.perf_counter()
    act()
    took = time.perf_counter() - began
    stop.set()
    thread.join()
    return took, float(np.diff([*ticks, time.perf_counter()]).max())


def _logits(model: og.Model, cuts: list[int]) -> npt.NDArray[np.float32]:
    """Of the prompt's last position, the prompt read in pieces that end at `cuts`."""
    generator = _generator(model, len(_PROMPT) + 1)
    for begin, end in zip([0, *cuts], [*cuts, len(_PROMPT)], strict=True):
        generator.append_tokens(_PROMPT[begin:end])
    return np.array(generator.get_logits()).reshape(-1)


def main() -> None:
    models: list[og.Model] = []
    took, still = _longest_standstill(lambda: models.append(_load(sys.argv[1])))
    print(f"Model(): {took:.3f} s, other threads stood still for {still:.3f} s")
    generator = _generator(models[0], 1024)
    took, still = _longest_standstill(lambda: generator.append_tokens(_PROMPT))
    print(f"append_tokens(300): {took:.3f} s, other threads stood still for {still:.3f} s")
    for capacity in (512, 1024, 2048, 4096):
        took, _ = _longest_standstill(lambda size=capacity: _generator(models[0], size))  # type: ignore[misc]
        print(f"Generator(max_length={capacity}): {took * 1e3:.0f} ms")
    whole = _logits(models[0], [])
    for name, cuts in {
        "in chunks of 100": [100, 200],
        "last two tokens apart": [298],
        "last token alone": [299],
    }.items():
        difference = np.abs(_logits(models[0], cuts) - whole).max()
        print(f"logits, {name}: differ by {difference:.6f} at most from those of one go")


if __name__ == "__main__":
    main()
