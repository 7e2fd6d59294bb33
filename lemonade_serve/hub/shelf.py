"""How a directory comes to be in a cache root: made apart, and put in its place in one step."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lemonade_serve.hub.removal import STAGING

_TRIES = 100
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """An empty directory below `root`, which is made if it is not there; gone in the end.

    It is locked while it is in use, so that the next one to come removes what a killed process left
    behind, and nothing else. Raises OSError.
    """
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with _locked(root, wait=True):  # nobody sweeps between making and locking
            _remove_abandoned(root)
            directory = Path(tempfile.mkdtemp(prefix=STAGING, dir=root))
            held.enter_context(_locked(directory))
        held.callback(shutil.rmtree, directory, ignore_errors=True)
        yield directory


def put(staged: Path, target: Path) -> None:
    """Give it its place; one that was there is `staged` then. Raises OSError.

    Removals meanwhile take away what they leave empty above it.
    """
    for further in reversed(range(_TRIES)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _put_once(staged, target)
        except (FileNotFoundError, FileExistsError):
            if not further:
                raise
        else:
            return


def _put_once(staged: Path, target: Path) -> None:
    """Rename it, or change places with one that is there, and may just have come."""
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _exchange(staged, target)


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step, so that a kill loses neither."""
    done = ctypes.CDLL(None, use_errno=True).renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def _locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the directory; a lock dies with its process. Raises BlockingIOError if it is held and
    we do not wait."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(root: Path) -> None:
    for directory in root.glob(f"{STAGING}*"):
        with suppress(OSError), _locked(directory):
            shutil.rmtree(directory)
