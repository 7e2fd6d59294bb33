"""The frames of jobs: long work, done once, in a process of its own.

A job says `Hello`, gets one of these commands, and sends `Progress` until `JobDone`, what it was
asked for, or `JobFailed`.
"""

from __future__ import annotations

import msgspec


class ImportGguf(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Make a checkpoint out of the GGUF file `source`, in the empty directory `into`."""

    source: str
    into: str
    dtype: str


class Recipe(msgspec.Struct, frozen=True, array_like=True):
    """How a model becomes a checkpoint: what its matrices are to be stored in, what it is to run
    with, and for int4 and int8 how they are rounded, so many weights to a scale."""

    dtype: str
    execution_provider: str
    algorithm: str
    block_size: int


class ConvertModel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Make a checkpoint out of the model in the directory `source`, in the empty directory `into`,
    with `threads`. `memory_limit` and `keep_free` are bytes: of memory that it may have, and of the
    disk that stay free. One whose perplexity is more than `max_perplexity_ratio` times that of the
    source is none; nor is, where the source is an `encoder`, one whose vectors have a cosine to the
    source's of less than `min_cosine`, or whose scores are further off than `max_score_error`."""

    source: str
    into: str
    recipe: Recipe
    threads: int
    memory_limit: int
    keep_free: int
    max_perplexity_ratio: float
    encoder: bool = False
    min_cosine: float = 0.0
    max_score_error: float = 1.0


class FindExporter(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Say what there is to convert models with that generate, or `encoders`."""

    encoders: bool = False


class Exporter(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The packages that convert, with their versions, and those that are missing."""

    programs: tuple[str, ...]
    missing: tuple[str, ...]


class ListRepository(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Say what a repository of the hub holds at a revision; "" is its usual one."""

    repository: str
    revision: str


class RepositoryFile(msgspec.Struct, frozen=True, array_like=True):
    """One file: its size in bytes, and its digest as the hub names it. `sha256` is that of the
    content; where the hub knows none, `git` is the SHA-1 that git gives it."""

    path: str
    size: int
    sha256: str = ""
    git: str = ""


class Repository(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a repository holds at a commit. `architectures` are what its `config.json`
    names, as far as the hub knows them."""

    name: str
    revision: str
    commit: str
    files: tuple[RepositoryFile, ...]
    license: str | None = None
    architectures: tuple[str, ...] = ()


class FetchFiles(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Bring files of a repository into the hub's cache and check their digests; with an empty
    directory `into`, put them there too, below `folder` by their paths. `keep_free` bytes of either
    disk stay free. A connection that is silent for `silence_s` is tried again, `retries` times
    without a byte in between. The cache notes that the commit is what `revision` was."""

    repository: str
    commit: str
    files: tuple[RepositoryFile, ...]
    into: str
    folder: str
    at_once: int
    keep_free: int
    silence_s: float
    retries: int
    revision: str = ""


class Fetched(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Where the files are in the hub's cache, in the order in which they were asked for, and
    whether they were downloaded just now. `sha256` are their digests."""

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    downloaded: tuple[bool, ...]


class Progress(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a job is doing, and how much of the whole is done (0 to 1)."""

    stage: str
    fraction: float


class JobDone(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The directory is complete. `dtype` is what its matrices really are, `name` a suggestion."""

    name: str
    dtype: str


class JobFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """With an error of `errors.py`, by its code."""

    code: str
    message: str
