"""What is wanted of the hub, in the words of whoever wants it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import AUTO, check_name

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*")  # git knows none with `..`
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted: a repository, at a revision ("" is its usual one), what of it (see
    `Wanted`), and what to call it here."""

    repository: str
    revision: str = ""
    include: tuple[str, ...] = ()
    dtype: str = AUTO
    name: str = ""

    @property
    def model(self) -> str:
        """Its name here: that of the repository, with the revision that was asked for."""
        at = f"@{_UNSAFE.sub('-', self.revision)}" if self.revision else ""
        return self.name or self.repository + at


def order(
    what: str,
    *,
    include: Sequence[str] = (),
    dtype: str = AUTO,
    name: str | None = None,
) -> Order:
    """`what` is REPO or REPO@REVISION. Raises InvalidRequest for what can be neither."""
    repository, at, revision = what.partition("@")
    if not _REPOSITORY.fullmatch(repository) or (at and not _REVISION.fullmatch(revision)):
        raise errors.InvalidRequest(
            f"{what!r} names no repository of the hub: it is NAME, OWNER/NAME or "
            "OWNER/NAME@REVISION",
            param="model",
        )
    if name:
        check_name(name)
    return Order(
        repository=repository,
        revision=revision,
        include=tuple(include),
        dtype=dtype,
        name=name or "",
    )
