"""What a worker's environment is."""

from __future__ import annotations

import pytest

from lemonade_serve.runtime.launcher import _with_huge_pages


@pytest.mark.parametrize(
    ("set_already", "tunables"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, "glibc.malloc.hugetlb=1"),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
            "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1",
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
)
def test_workers_have_huge_pages_unless_somebody_has_decided_already(
    set_already: dict[str, str], tunables: str
) -> None:
    environment = _with_huge_pages({"PATH": "/bin", **set_already})
    assert environment == {"PATH": "/bin", "GLIBC_TUNABLES": tunables}
