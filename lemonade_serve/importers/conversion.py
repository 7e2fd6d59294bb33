"""Convert a model: an ONNX GenAI checkpoint from safetensors, checked against them.

Runs where the extra `export` is, and nowhere else (docs/adr/0015-conversion.md). The stages, each a
module: `source` reads what it is, `builder` makes the checkpoint, `trial` and `reference` run it
and what it was made of, and `scores` says how near they are; `joblog` has what libraries print.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from lemonade_serve.errors import DiskFull, JobFailed, LemonadeError, UnsupportedModel
from lemonade_serve.importers.closeness import Closeness
from lemonade_serve.importers.exporter import find_exporter
from lemonade_serve.importers.joblog import JobLog
from lemonade_serve.importers.scores import Quality, compare, passage_ids, score
from lemonade_serve.importers.source import Kind, Source, SourceFile, read_source
from lemonade_serve.protocol.jobs import ConvertModel, JobDone, Recipe

Progress = Callable[[str, float], None]

LOG_NAME: Final = "conversion.log"
_NICENESS: Final = 10  # whoever is served meanwhile goes first
_HASHED, _BUILT = 0.05, 0.8
"""How much of the whole is done after these."""
_FIRST_POSITIONS: Final = 2
"""Some encoders have so many positions that no token of a text gets."""
_NEW_TOKENS: Final = 10
_PROMPT_TOKENS: Final = 8
_EXACT_AGREEMENT: Final = 0.95
"""In float32 it is 1, but for the nearest ties."""
_LONGEST_REASON: Final = 500
_NO_MEMORY: Final = re.compile(
    r"allocate memory|bad.alloc|MemoryError|os error 12|new thread", re.I
)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint was found to be, over the positions of the shipped text (`scores`).
    `new_tokens` were generated."""

    positions: int
    perplexity: float
    reference_perplexity: float
    agreement: float
    new_tokens: int


class Conversion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `provenance.json` says of one. An `algorithm` and a `block_size` are of what is rounded
    alone; a `check` is of what generates, `closeness` of encoders."""

    programs: tuple[str, ...]
    recipe: dict[str, Any]
    source: str
    architecture: str
    parameters: int
    files: tuple[SourceFile, ...]
    check: Check | None = None
    closeness: Closeness | None = None


def convert(job: ConvertModel, progress: Progress) -> JobDone:
    """Write a complete checkpoint into the existing, empty directory `job.into`.

    Raises UnsupportedModel for what cannot be converted, DiskFull, and JobFailed for whatever went
    wrong, a checkpoint that is no good among it.
    """
    into, told = Path(job.into), _Rising(progress)
    told.tell("reading", 0.0)
    try:
        conversion = _convert(job, told)
    except LemonadeError:
        raise
    except Exception as error:  # torch, transformers and onnxruntime raise anything
        _fail(error, job)
    content = {"dtype": job.recipe.dtype, "conversion": conversion}
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    (into / "provenance.json").write_bytes(text + b"\n")
    told.tell("done", 1.0)
    return JobDone(conversion.source, job.recipe.dtype)


def _convert(job: ConvertModel, told: _Rising) -> Conversion:
    if missing := find_exporter(encoders=job.encoder).missing:
        raise UnsupportedModel(f"nothing here can convert it: {', '.join(missing)} is missing")
    into, source = Path(job.into), read_source(Path(job.source), encoder=job.encoder)
    _check_room(source, job)
    _prepare(job)
    with JobLog(into / LOG_NAME, told.hear):
        match source.kind:
            case Kind.DECODER:
                return _convert_decoder(source, into, job, told)
            case Kind.ENCODER:
                return _convert_encoder(source, into, job, told)


def _convert_decoder(source: Source, into: Path, job: ConvertModel, told: _Rising) -> Conversion:
    _bound_memory(job.memory_limit, "builder", "reference", "trial")
    from lemonade_serve.importers.builder import BuilderProgress, build

    files = _digests(source, told)
    told.heard = BuilderProgress(
        source.config.num_hidden_layers,
        lambda stage, done: told.tell(stage, _HASHED + done * (_BUILT - _HASHED)),
    ).hear
    build(source.directory, into, job.recipe)
    gc.collect()
    for path in source.tokenizer_files:
        target = into / path.relative_to(source.directory)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    return Conversion(
        programs=(f"lemonade-serve {version('lemonade-serve')}", *find_exporter().programs),
        recipe=_said(job.recipe),
        source=source.directory.name,
        architecture=source.architecture,
        parameters=source.parameters,
        files=files,
        check=_check(source, into, job, told),
    )


def _convert_encoder(source: Source, into: Path, job: ConvertModel, told: _Rising) -> Conversion:
    _bound_memory(job.memory_limit, "export", "vectors")
    from lemonade_serve.importers.export import GRAPH, export
    from lemonade_serve.importers.vectors import MAX_TOKENS, measure

    files = _digests(source, told)
    ranks = source.architecture.endswith("ForSequenceClassification")
    if ranks and source.config.labels != 1:
        raise UnsupportedModel(
            f"it is a classifier of {source.config.labels} labels, and a reranker has one"
        )
    told.tell("exporting", _HASHED)
    export(
        source.directory,
        into,
        job.recipe.dtype,
        ranks=ranks,
        block_size=job.recipe.block_size,
        rounding=lambda: told.tell("rounding", 0.6),
    )
    gc.collect()
    told.tell("checking", _BUILT)
    reads = source.config.max_position_embeddings - _FIRST_POSITIONS
    tokens = min(MAX_TOKENS, reads) if reads > 0 else MAX_TOKENS
    closeness = measure(
        into, GRAPH, source.directory, ranks=ranks, tokens=tokens, threads=job.threads
    )
    allowed = job.max_score_error if ranks else 1 - job.min_cosine
    if not closeness.error <= allowed:  # nor is it, if it is no number
        what = "a score is" if ranks else "the cosine of a vector is"
        setting = "convert.max_score_error" if ranks else "convert.min_cosine"
        raise JobFailed(
            f"the checkpoint is no good: {what} {closeness.error:.2g} off that of the source, more "
            f"than {allowed:.2g} ({setting}); another dtype is nearer"
        )
    return Conversion(
        programs=(
            f"lemonade-serve {version('lemonade-serve')}",
            *find_exporter(encoders=True).programs,
        ),
        recipe=_said(job.recipe),
        source=source.directory.name,
        architecture=source.architecture,
        parameters=source.parameters,
        files=files,
        closeness=closeness,
    )


def _check(source: Source, into: Path, job: ConvertModel, told: _Rising) -> Check:
    """Load it, let it answer, and compare it with what it was made of."""
    from lemonade_serve.importers.reference import reference_logits
    from lemonade_serve.importers.trial import Trial

    told.tell("checking: the source", _BUILT)
    ids = passage_ids(into / "tokenizer.json")[: source.config.max_position_embeddings or None]
    reference = score(reference_logits(source.directory, ids, threads=job.threads), ids)
    gc.collect()
    told.tell("checking: the checkpoint", 0.9)
    trial = Trial(into, threads=job.threads)
    answer = trial.answer(ids[:_PROMPT_TOKENS], _NEW_TOKENS)
    quality = compare(score(trial.logits(ids), ids), reference)
    judge(quality, job)
    return Check(**msgspec.structs.asdict(quality), new_tokens=len(answer))


def judge(quality: Quality, job: ConvertModel) -> None:
    """Raises JobFailed for what nobody should be served with."""
    if job.recipe.dtype == "fp32" and quality.agreement < _EXACT_AGREEMENT:
        raise JobFailed(
            "the model builder's graph is not this model: nothing was rounded, and both find the "
            f"same token the likeliest at {quality.agreement:.0%} of the positions only"
        )
    if not quality.ratio <= job.max_perplexity_ratio:  # nor is it, if it is no number
        raise JobFailed(
            f"the checkpoint is no good: its perplexity is {quality.perplexity:.4g} where that of "
            f"the source is {quality.reference_perplexity:.4g}, more than "
            f"{job.max_perplexity_ratio:g} times it (convert.max_perplexity_ratio); another dtype "
            "or algorithm is nearer"
        )


def _digests(source: Source, told: _Rising) -> tuple[SourceFile, ...]:
    total, done = sum(path.stat().st_size for path in source.weights), 0

    def read(size: int) -> None:
        nonlocal done
        done += size
        told.tell("reading", _HASHED * min(1.0, done / total))

    return source.digests(read)


def _said(recipe: Recipe) -> dict[str, Any]:
    said = msgspec.structs.asdict(recipe)
    if recipe.dtype not in ("int4", "int8"):
        del said["algorithm"], said["block_size"]
    return said


def _check_room(source: Source, job: ConvertModel) -> None:
    wanted, free = source.checkpoint_bytes(job.recipe.dtype), shutil.disk_usage(job.into).free
    if free - wanted < job.keep_free:
        raise DiskFull(
            f"a checkpoint in {job.recipe.dtype} may take {wanted / 1e9:.2f} GB on the disk of "
            f"{Path(job.into).parent}, which has {free / 1e9:.2f} GB free, and "
            f"{job.keep_free / 1e9:.2f} GB stay free (hub.min_free_bytes)"
        )


def _prepare(job: ConvertModel) -> None:
    """This process is for the job alone: who goes first, and that nobody is asked for anything."""
    os.nice(_NICENESS)
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", OMP_NUM_THREADS=str(job.threads)
    )


def _bound_memory(limit: int, *modules: str) -> None:
    """Once the libraries of our modules are loaded: a dynamic loader without memory ends a process
    without a word. Raises MemoryError where they alone are too large."""
    for name in modules:
        importlib.import_module(f"{__package__}.{name}")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    status = Path("/proc/self/status").read_text()
    if (found := re.search(r"VmData:\s+(\d+) kB", status)) and int(found[1]) * 1024 > limit:
        raise MemoryError("the libraries need more")


def _fail(error: Exception, job: ConvertModel) -> NoReturn:
    chain = list(_chain(error))
    said = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
    if any(_NO_MEMORY.search(f"{type(one).__name__}: {one}") for one in chain):
        raise JobFailed(
            f"the conversion needs more memory than the {job.memory_limit / 2**30:.1f} GiB of "
            "convert.memory_limit"
        ) from error
    if any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in chain):
        raise DiskFull(f"no room on the disk of {job.into}") from error
    raise JobFailed(f"the conversion failed: {said}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _Rising:
    """Progress that never falls, whoever tells of it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0.0
        self._stage = ""
        self.heard: Callable[[str], None] = lambda line: None

    def tell(self, stage: str, done: float) -> None:
        if stage != self._stage or done >= self._done + 0.002:
            self._stage, self._done = stage, max(self._done, done)
            self._progress(stage, self._done)

    def hear(self, line: str) -> None:
        self.heard(line)
