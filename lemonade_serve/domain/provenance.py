"""Where a checkpoint came from, as it is written beside it."""

from __future__ import annotations

import msgspec


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the repository. `downloaded`: it was not in the hub's cache before."""

    path: str
    bytes: int
    sha256: str
    downloaded: bool


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled. `revision` is what was asked for, `commit` what that was then; `how` says
    what became of the files, `program` what did it."""

    repository: str
    revision: str
    commit: str
    license: str | None
    how: str
    program: str
    pulled_s: int
    """Unix time."""
    files: tuple[SourceFile, ...]


class ConvertedFile(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    bytes: int
    sha256: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How near a checkpoint was found to be to what it was made of, over the positions of a text;
    `agreement` is the share at which both think the same token the likeliest."""

    positions: int
    perplexity: float
    reference_perplexity: float
    agreement: float
    new_tokens: int

    def __str__(self) -> str:
        return (
            f"perplexity {self.perplexity:.2f}, of the source {self.reference_perplexity:.2f}; "
            f"the same likeliest token at {self.agreement:.1%} of {self.positions} positions"
        )


class Closeness(msgspec.Struct, frozen=True, kw_only=True):
    """How near an encoder was found to be to what it was made of, over some texts: `error` is 1
    less the cosine of the two vectors that are furthest apart, or the difference of such scores."""

    texts: int
    error: float

    def __str__(self) -> str:
        return f"at most {self.error:.1e} off the source, of {self.texts} texts"


class MadeBy(msgspec.Struct, frozen=True, kw_only=True):
    """How it was converted; `algorithm` and `block_size` only where matrices were rounded."""

    dtype: str
    execution_provider: str
    algorithm: str | None = None
    block_size: int | None = None


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion did (docs/convert.md)."""

    programs: tuple[str, ...]
    recipe: MadeBy
    source: str
    architecture: str
    files: tuple[ConvertedFile, ...]
    check: Check | None = None
    closeness: Closeness | None = None

    @property
    def found(self) -> str:
        """What it was found to be, for people."""
        return str(self.check or self.closeness or "not checked")


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """All that may be known; of a directory that was copied by hand it is nothing. What an import
    did is in `source_file` and what follows it (docs/import.md), what a conversion did in
    `conversion`."""

    dtype: str | None = None
    license: str | None = None
    source: Source | None = None
    importer: str | None = None
    source_file: str | None = None
    source_sha256: str | None = None
    lossless: int | None = None
    requantised: int | None = None
    conversion: Conversion | None = None
