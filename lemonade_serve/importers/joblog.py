"""What libraries print while a job runs: kept within bounds, and listened to."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

MAX_BYTES: Final = 1024 * 1024
_LAST_LINES: Final = 40
_PIECE_BYTES: Final = 65_536
_LONGEST_LINE: Final = 2000
_BREAK: Final = re.compile(rb"([\r\n])")


class JobLog:
    """While it is entered, standard output and error of this process go line by line to `path`,
    until that is MAX_BYTES long, and to `heard`. Progress bars, which overwrite themselves, are
    heard and not written. If it is left by an exception, the last lines are said on the real
    standard error."""

    def __init__(self, path: Path, heard: Callable[[str], None]) -> None:
        self._path = path
        self._heard = heard
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._room = MAX_BYTES

    def __enter__(self) -> JobLog:
        self._saved = [(number, os.dup(number)) for number in (1, 2)]
        reading, writing = os.pipe()
        for number, _ in self._saved:
            os.dup2(writing, number)
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in self._saved:
            os.dup2(saved, number)
            os.close(saved)
        self._reader.join()
        if error is not None:
            sys.stderr.write("".join(f"{line}\n" for line in self._last))
            sys.stderr.flush()

    def _read(self, reading: int) -> None:
        rest = b""
        with os.fdopen(reading, "rb", buffering=0) as pipe, self._path.open("w") as file:
            while piece := pipe.read(_PIECE_BYTES):
                *parts, rest = _BREAK.split(rest + piece)
                for text, end in zip(parts[::2], parts[1::2], strict=True):
                    line = text.decode(errors="replace").strip()[:_LONGEST_LINE]
                    self._heard(line)
                    if line and end == b"\n":
                        self._last.append(line)
                        self._write(file.write, line)

    def _write(self, write: Callable[[str], object], line: str) -> None:
        if self._room > 0:
            write(f"{line}\n")
        self._room -= len(line) + 1
