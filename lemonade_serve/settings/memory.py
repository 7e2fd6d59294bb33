"""Numbers of bytes, as people write them."""

from __future__ import annotations

import re

from lemonade_serve.errors import SettingsError

_AUTO = "auto"
_WRITTEN = re.compile(r"(\d+) ?([KMGT]iB)?", re.ASCII)
_FACTORS = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def memory_bytes(value: int | str) -> int | None:
    """`12GiB`, `512 MiB` or a plain number, in bytes; None for `auto`. Raises SettingsError."""
    if value == _AUTO:
        return None
    written = _WRITTEN.fullmatch(str(value))
    if written is None:
        raise SettingsError(f"{value!r} is no number of bytes: write 12GiB, 512 MiB or 1073741824")
    return int(written[1]) * _FACTORS[written[2]]
