"""Memory for keys and values."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import numpy as np
import pytest

from lemonade_serve.worker.engines.cache import KvCache

ROWS, LAYERS = 4, 3
SHAPE = {"layers": LAYERS, "rows": ROWS, "heads": 3, "capacity": 1000, "head_size": 64}


@pytest.fixture(params=["float32", "float16"])
def cache(request: pytest.FixtureRequest) -> KvCache:
    return KvCache(dtype=np.dtype(request.param), **SHAPE)


def fill(cache: KvCache, row: int, value: float, tokens: int = 500) -> None:
    for layer in range(LAYERS):
        for side in (0, 1):
            cache.side(layer, side, row, 1)[:, :, :tokens] = value + layer + side / 2


def holds(cache: KvCache, row: int, value: float, begin: int = 0, end: int = 500) -> bool:
    return all(
        bool((cache.side(layer, side, row, 1)[:, :, begin:end] == value + layer + side / 2).all())
        for layer in range(LAYERS)
        for side in (0, 1)
    )


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_rows_are_one_batch_of_at_least_the_capacity(cache: KvCache) -> None:
    values = cache.side(1, 1, 1, 2)
    assert values.shape == (2, 3, cache.capacity, 64)
    assert values.flags.c_contiguous
    assert 1000 <= cache.capacity < 1100
    assert cache.token_bytes == 2 * LAYERS * 3 * 64 * values.itemsize


def test_what_is_not_written_takes_no_memory(cache: KvCache) -> None:
    before = resident_bytes()
    huge = KvCache(layers=60, rows=64, heads=8, capacity=8192, head_size=128, dtype=np.dtype("f4"))
    huge.side(0, 0, 0, 1)[:] = 1
    assert resident_bytes() - before < 100 << 20


def test_a_token_takes_small_pages_whatever_the_system_prefers(cache: KvCache) -> None:
    cache.exchange(0, 1, 500)
    for row in range(ROWS):
        assert "nh" in flags(cache.side(0, 0, row, 1).ctypes.data)


def flags(address: int) -> list[str]:
    """Of the memory at an address: proc_pid_smaps(5), VmFlags."""
    for mapping in re.split(r"^(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text(), flags=re.M):
        begin, end = (
            (int(a, 16) for a in mapping.split(" ", 1)[0].split("-")) if mapping else (0, 0)
        )
        if begin <= address < end:
            return mapping.rpartition("VmFlags:")[2].split()
    raise AssertionError(f"nothing is at {address:x}")


def test_a_copy_is_of_the_tokens_asked_for_and_no_others(cache: KvCache) -> None:
    fill(cache, 0, 1)
    fill(cache, 2, 10)
    cache.copy(0, 2, 100, 200)
    assert holds(cache, 2, 1, 100, 200)
    assert holds(cache, 2, 10, 0, 100)
    assert holds(cache, 2, 10, 200)
    assert holds(cache, 0, 1)


@pytest.mark.parametrize("moves", [True, False])
def test_rows_that_are_exchanged_have_each_others_content(cache: KvCache, moves: bool) -> None:
    cache.moves = cache.moves and moves  # an old kernel cannot
    for row in range(ROWS):
        fill(cache, row, 10 * row)
    for one, other in ((0, 3), (1, 2), (0, 1), (3, 3 - 1)):
        cache.exchange(one, other, 500)
    assert [holds(cache, row, 10 * held) for row, held in enumerate((2, 3, 0, 1))] == [True] * ROWS


def test_this_kernel_moves_pages(cache: KvCache) -> None:
    assert cache.moves


def test_exchanging_touches_nothing(cache: KvCache) -> None:
    fill(cache, 0, 1)
    before = resident_bytes()
    for _ in range(50):
        cache.exchange(0, 1, 500)
        cache.exchange(1, 2, 500)
        cache.exchange(0, 2, 500)
    assert resident_bytes() - before < 1 << 20


def test_a_row_that_is_given_back_takes_no_memory_and_can_be_used_again(cache: KvCache) -> None:
    fill(cache, 0, 1, 1000)
    fill(cache, 1, 2, 1000)
    before = resident_bytes()
    cache.give_back(1)
    row_bytes = 1000 * cache.token_bytes
    assert before - resident_bytes() > 0.9 * row_bytes
    assert holds(cache, 0, 1)
    fill(cache, 1, 3)
    assert holds(cache, 1, 3)


def test_more_than_there_are_addresses_is_no_memory() -> None:
    with pytest.raises(MemoryError, match="no address space"):
        KvCache(**{**SHAPE, "rows": 1 << 30, "capacity": 1 << 20}, dtype=np.dtype("f4"))
