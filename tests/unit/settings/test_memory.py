"""Numbers of bytes, as people write them."""

from __future__ import annotations

import pytest

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import memory_bytes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("auto", None),
        ("12GiB", 12 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("1TiB", 2**40),
        ("3 KiB", 3072),
        ("1024", 1024),
        (4096, 4096),
    ],
)
def test_a_number_of_bytes_may_be_written_in_several_ways(
    written: int | str, expected: int | None
) -> None:
    assert memory_bytes(written) == expected


@pytest.mark.parametrize("written", ["", "GiB", "12 GB", "12  GiB", "1.5GiB", "-1", -1, "12gib"])
def test_what_is_no_number_of_bytes_is_said_with_an_example(written: int | str) -> None:
    with pytest.raises(SettingsError, match=r"is no number of bytes: write 12GiB"):
        memory_bytes(written)
