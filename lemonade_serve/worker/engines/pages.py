"""How a loaded model lies in memory.

A step goes through all weights once, and looking up where each page of them lies takes time of its
own: next to none in pages of 2 MiB. ONNX Runtime allocates as everybody does; so what it has filled
is moved when it is done.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_HUGE: Final = 2 << 20
_PAGE: Final = 4096
_MADV_COLLAPSE: Final = 25  # asm-generic/mman-common.h, Linux 6.1
_FILLED: Final = 0.9
"""A huge page that had less in it would take memory for nothing."""
_NICENESS: Final = 19
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.p 00000000 00:00 0 *(?:\[heap\])?$")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def begin_settling() -> None:
    """`settle`, meanwhile: it takes 2 s a GB here, and whoever asks for something goes first."""
    threading.Thread(target=_settle_last, name="settling", daemon=True).start()


def _settle_last() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    settle()


def settle() -> int:
    """Give back what loading has freed, and move this process's own memory to huge pages, wherever
    it fills some; returns how many bytes are in these now. Where the kernel moves nothing (it is
    older than Linux 6.1, or has no 2 MiB in one piece), it stays where it is."""
    _libc.malloc_trim(0)
    return sum(_HUGE for address in _candidates() if _collapse(address))


def _candidates() -> Iterator[int]:
    """Where a huge page could be."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if found := _MAPPING.match(line):
            begin, end = (int(digits, 16) for digits in found.groups())
            yield from range(-(-begin // _HUGE) * _HUGE, end - _HUGE + 1, _HUGE)


def _collapse(address: int) -> bool:
    return _is_filled(address) and _libc.madvise(address, _HUGE, _MADV_COLLAPSE) == 0


def _is_filled(address: int) -> bool:
    pages = ctypes.create_string_buffer(_HUGE // _PAGE)
    if _libc.mincore(address, _HUGE, pages):
        return False
    return sum(page & 1 for page in pages.raw) >= _FILLED * len(pages)
