"""Making a checkpoint of a model as the hub has it, and what of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from lemonade_serve.domain.checkpoint import AUTO, check_name
from lemonade_serve.domain.ports import CheckpointShelf, Converter
from lemonade_serve.errors import DeviceUnavailable, JobFailed, UnsupportedModel
from lemonade_serve.protocol.jobs import ConvertModel, JobDone, Recipe

_MADE: Mapping[str, tuple[str, ...]] = {
    "cpu": ("int4", "int8", "fp32"),
    "webgpu": ("int4", "int8", "fp16"),
    "cuda": ("int4", "int8", "fp16", "bf16", "fp32"),
    "dml": ("int4", "fp16"),
}
"""What the model builder makes for an execution provider; the first one is `auto`."""
_MADE_TO_ENCODE: Mapping[str, tuple[str, ...]] = {"cpu": ("fp32", "int8", "fp16")}
"""As `_MADE`, of encoders: they are small, and what compares vectors wants them exact."""

_NEAREST = "default"
"""At 8 bit no way of rounding is nearer than this one, and it is the fastest."""

Progress = Callable[[str, float], None]


class ConversionTerms(msgspec.Struct, frozen=True, kw_only=True):
    """Of every conversion of models that generate, or of encoders: see `Recipe` and `ConvertModel`.
    `python` is whose the exporter is, for a message."""

    algorithm: str
    block_size: int
    threads: int
    memory_limit: int
    keep_free: int
    max_perplexity_ratio: float
    min_cosine: float
    max_score_error: float
    python: str
    encoders: bool = False


class Conversions:
    """Converts models of one kind where there is an exporter, a `turn` at a time: each may take
    all the memory that conversions may have."""

    def __init__(
        self, converter: Converter, terms: ConversionTerms, turn: asyncio.Lock | None = None
    ) -> None:
        """`turn` is shared with those who have the same memory."""
        self._converter = converter
        self._terms = terms
        self._turn = turn or asyncio.Lock()

    async def require(self) -> None:
        """Raises UnsupportedModel, with what to do, where nothing can be converted."""
        try:
            missing = (await self._converter.exporter(encoders=self._terms.encoders)).missing
            why = f"it has no {', '.join(missing)}" if missing else ""
        except JobFailed as error:
            why = error.message
        if why:
            what, setting = "with the extra `export`", "convert.python"
            if self._terms.encoders:
                what, setting = "of deploy/encoders/requirements.txt", "convert.encoder_python"
            raise UnsupportedModel(
                f"safetensors have to be converted, and {self._terms.python} cannot: {why}. Make "
                f"an environment {what}, and set {setting} to its python (docs/convert.md)"
            )

    def recipe(self, dtype: str, providers: Sequence[str]) -> Recipe:
        """For the first of the execution providers that anything can be made for. Raises
        DeviceUnavailable."""
        known, who = _MADE, "the model builder"
        if self._terms.encoders:
            known, who = _MADE_TO_ENCODE, "optimum"
        provider = next((one for one in providers if one in known), None)
        if provider is None:
            raise DeviceUnavailable(
                f"nothing can be made for {', '.join(providers)}: {who} knows {', '.join(known)}",
                param="device",
            )
        made = known[provider]
        if dtype not in (AUTO, *made):
            raise DeviceUnavailable(
                f"{who} makes no {dtype} for {provider}, but {', '.join(made)}", param="dtype"
            )
        dtype = made[0] if dtype == AUTO else dtype
        algorithm = self._terms.algorithm if dtype == "int4" else _NEAREST
        return Recipe(dtype, provider, algorithm, self._terms.block_size)

    async def make(self, source: Path, into: Path, recipe: Recipe, progress: Progress) -> JobDone:
        """In the empty directory `into`. Raises as the Converter does."""
        terms = self._terms
        job = ConvertModel(
            str(source),
            str(into),
            recipe,
            threads=terms.threads,
            memory_limit=terms.memory_limit,
            keep_free=terms.keep_free,
            max_perplexity_ratio=terms.max_perplexity_ratio,
            encoder=terms.encoders,
            min_cosine=terms.min_cosine,
            max_score_error=terms.max_score_error,
        )
        progress("waiting for its turn", 0.0)
        async with self._turn:
            return await self._converter.convert(job, progress)


class Workshops(NamedTuple):
    """Who converts what generates, and who encoders: libraries that cannot be beside each other."""

    decoders: Conversions
    encoders: Conversions


async def convert_directory(
    source: Path,
    name: str | None,
    recipe: Recipe,
    *,
    conversions: Conversions,
    shelf: CheckpointShelf,
    progress: Progress,
) -> Path:
    """Convert a model as `name`, or as its directory is called; returns the new checkpoint's
    directory. Raises as `Conversions` does, and InvalidRequest; leaves nothing then."""
    if name is not None:
        check_name(name)
    await conversions.require()
    with shelf.staging() as staged:
        done = await conversions.make(source, staged, recipe, progress)
        return shelf.publish(staged, name or done.name, done.dtype)
