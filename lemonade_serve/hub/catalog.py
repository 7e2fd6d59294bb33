"""The checkpoints on disk: what a cache root holds, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from lemonade_serve import errors
from lemonade_serve.domain.checkpoint import DTYPES, CheckpointInfo, check_name, choose
from lemonade_serve.domain.provenance import Provenance, Source
from lemonade_serve.hub import adapters, encoders, provenance, shelf
from lemonade_serve.hub.capabilities import capabilities
from lemonade_serve.hub.matrices import stored_dtype
from lemonade_serve.hub.removal import forget, hub_cache, remove, superseded
from lemonade_serve.protocol.messages import Adapter

_CONFIG = "genai_config.json"
_MAX_DEPTH = 4
"""Directories below a root that are searched: publisher, name, dtype, and one to spare."""
_PROCESS_BYTES = 100 * 1024 * 1024
_KV_VALUE_BYTES = 4

log = structlog.get_logger()


class _Decoder(msgspec.Struct):
    filename: str = "model.onnx"
    num_hidden_layers: int = 0
    num_key_value_heads: int = 0
    head_size: int = 0


class _Model(msgspec.Struct):
    type: str
    context_length: int
    decoder: _Decoder = msgspec.field(default_factory=_Decoder)


class _Config(msgspec.Struct):
    model: _Model


class DiskCatalog:
    """The `CheckpointCatalog` (domain/ports.py) of a cache root and the other roots allowed.

    A checkpoint is any directory with a `genai_config.json`, or an encoder's (hub/encoders.py); it
    is called by its path under the root, less a last part that is a dtype. Entries that begin with
    a dot are not looked at.
    """

    def __init__(self, root: Path, allowed: Sequence[Path] = ()) -> None:
        self._root = root.resolve()  # one checkpoint has one path, whichever way a client names it
        self._allowed = [self._root, *(path.resolve() for path in allowed)]
        self._known: dict[tuple[Path, Path], tuple[tuple[int, int], CheckpointInfo]] = {}

    def find(
        self, name: str, dtype: str, cache_dir: str | None = None, adapter: str | None = None
    ) -> CheckpointInfo:
        root = self._resolve(cache_dir)
        check_name(name)
        at = root / name
        found, broken = [], None
        for path in (at, *_subdirectories(at)):
            try:
                info = self._read(path, root)
            except errors.ModelLoadError as error:
                broken = error
            else:
                found += [info] if info and info.name == name else []
        if broken and not found:
            raise broken
        if not found:
            raise errors.ModelNotFound(
                f"there is no model {name!r} in {root}: `lemonade-serve list` shows what there is",
                param="model",
            )
        return choose(dtype, found, adapter)

    def list(self, cache_dir: str | None = None) -> Sequence[CheckpointInfo]:
        root = self._resolve(cache_dir)
        infos = []
        for path in _walk(root, _MAX_DEPTH):
            try:
                infos += [info] if (info := self._read(path, root)) else []
            except errors.ModelLoadError as error:
                log.warning("checkpoint_unreadable", reason=error.message)
        for info in infos:
            if info.encoder is None and (misnamed := adapters.misnamed(info.path)):
                log.warning("adapters_misnamed", paths=[str(path) for path in misnamed])
        return sorted(infos, key=lambda info: (info.name, info.dtype))

    def adapters(self, info: CheckpointInfo) -> Sequence[Adapter]:
        """Those that lie beside it now."""
        return () if info.encoder else adapters.find(info.path)

    def imported_from(self, file_name: str) -> Sequence[CheckpointInfo]:
        """Those that our importer made of a file of that name."""
        return [info for info in self.list() if provenance.read(info.path).source_file == file_name]

    def _resolve(self, cache_dir: str | None) -> Path:
        if cache_dir is None:
            return self._root
        try:
            path = Path(cache_dir).expanduser().resolve()
        except (RuntimeError, ValueError):  # no such user; no such path
            path = None
        if path is None or not any(path.is_relative_to(root.resolve()) for root in self._allowed):
            raise errors.NotAllowed(
                "cache_dir is outside the directories that the server's settings allow",
                param="cache_dir",
            )
        return path

    def _read(self, path: Path, root: Path) -> CheckpointInfo | None:
        """The checkpoint in one directory, if it is one; read again only when its configuration
        changed, but for its adapters. Raises ModelLoadError for one that cannot be understood."""
        try:
            modified, describe = (path / _CONFIG).stat().st_mtime_ns, _describe
        except OSError:
            if (changed := encoders.changed(path)) is None:
                return None
            modified, describe = changed, _describe_encoder
        version = (modified, provenance.written_ns(path))  # what is linked has its old times
        known = self._known.get((path, root))
        if known is None or known[0] != version:
            try:
                known = (version, describe(path, root, modified))
            except (OSError, msgspec.DecodeError, errors.InvalidRequest) as error:
                raise errors.ModelLoadError(f"{path}: {error}") from error
            self._known[path, root] = known
        return _with_adapters(known[1])

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory to make a checkpoint in, which `publish` takes; gone in the end.
        Raises JobFailed where none can be made."""
        with ExitStack() as held:
            with self._writing("make anything in"):
                directory = held.enter_context(shelf.staging(self._root))
            yield directory

    def publish(self, staged: Path, name: str, dtype: str) -> Path:
        """Give a finished directory its place, by rename; one that was there before goes with
        the staging. Raises JobFailed where that cannot be, and ModelLoadError for an encoder that
        could not be served."""
        if not (staged / _CONFIG).exists() and encoders.changed(staged) is not None:
            encoders.describe(staged)
        target = self._root / check_name(name) / dtype
        if target.exists() and (inside := self._inside(target)):
            raise errors.JobFailed(f"{inside} is inside of {target}: remove that first")
        with self._writing("put a checkpoint in"):
            gone = superseded(staged, target)
            staged.chmod(0o755)
            shelf.put(staged, target)
        if gone:
            with suppress(OSError, ValueError):
                forget(gone, hub_cache())
        return target

    def _inside(self, path: Path) -> str:
        return ", ".join(one.name for one in self.list() if path in one.path.parents)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turns what the disk says into JobFailed, or DiskFull."""
        try:
            yield
        except OSError as error:
            why = errors.JobFailed(f"cannot {what} {self._root}: {error}")
            raise errors.DiskFull.by(error, self._root) or why from error

    def attest(self, staged: Path, source: Source) -> str:
        """Write down where it came from; returns the dtype of its matrices. Raises ModelLoadError
        for what is no checkpoint, and JobFailed where it cannot be written."""
        try:
            dtype = provenance.read(staged).dtype or _stored_dtype(staged)
            provenance.write(staged, dtype=dtype, source=source)
        except msgspec.DecodeError as error:
            raise errors.JobFailed(f"{source.repository} is no checkpoint: {error}") from error
        except OSError as error:
            why = errors.JobFailed(f"{source.repository} is no checkpoint: {error}")
            raise errors.DiskFull.by(error, self._root) or why from error
        return dtype

    def provenance(self, info: CheckpointInfo) -> Provenance:
        """What is known of where it came from."""
        return provenance.read(info.path)

    def remove(self, info: CheckpointInfo) -> None:
        """Take it off the disk, and out of the hub's cache what was fetched for it alone. Raises
        NotAllowed where others are inside of it, and JobFailed where it cannot be."""
        if inside := self._inside(info.path):
            raise errors.NotAllowed(
                f"{inside} is inside of {info.path}: remove that first", param="model"
            )
        source = provenance.read(info.path).source
        try:
            with self.staging() as grave:  # nobody sweeps it meanwhile
                remove(info.path, self._root, grave)
            if source:
                forget(source, hub_cache())
        except (OSError, ValueError) as error:
            raise errors.JobFailed(f"cannot remove {info.path}: {error}") from error


def _stored_dtype(path: Path) -> str:
    if not (path / _CONFIG).exists():
        return encoders.describe(path).dtype
    config = msgspec.json.decode((path / _CONFIG).read_bytes(), type=_Config)
    return stored_dtype(path / config.model.decoder.filename)


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return check_name("/".join(parts[:-1] if len(parts) > 1 and parts[-1] in DTYPES else parts))


def _describe_encoder(path: Path, root: Path, modified_ns: int) -> CheckpointInfo:
    name = _name(path, root)
    try:
        described = encoders.describe(path)
    except errors.ModelLoadError as error:
        raise errors.ModelLoadError(f"{path}: {error.message}") from error
    size, origin = described.bytes, provenance.read(path)
    return CheckpointInfo(
        name=name,
        path=path,
        dtype=described.dtype,
        architecture=described.architecture,
        context_length=described.encoder.max_tokens,
        bytes=size,
        memory_bytes=_PROCESS_BYTES + 2 * size,
        kv_bytes_per_token=0,
        modified_s=modified_ns // 1_000_000_000,
        encoder=described.encoder,
        capabilities=(described.encoder.task,),
        commit=origin.source.commit if origin.source else None,
    )


def _describe(path: Path, root: Path, modified_ns: int) -> CheckpointInfo:
    model = msgspec.json.decode((path / _CONFIG).read_bytes(), type=_Config).model
    origin = provenance.read(path)
    name = _name(path, root)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    size -= sum(adapter.bytes for adapter in adapters.find(path))
    return CheckpointInfo(
        name=name,
        path=path,
        # of what others made the graph has to be read
        dtype=origin.dtype or stored_dtype(path / model.decoder.filename),
        architecture=model.type,
        context_length=model.context_length,
        bytes=size,
        memory_bytes=_PROCESS_BYTES + 2 * size,  # ONNX Runtime repacks the weights: a second copy
        kv_bytes_per_token=_kv_bytes_per_token(model.decoder),
        modified_s=modified_ns // 1_000_000_000,
        capabilities=capabilities(path),
        commit=origin.source.commit if origin.source else None,
    )


def _with_adapters(info: CheckpointInfo) -> CheckpointInfo:
    """They come and go; no load brings one into memory."""
    found = () if info.encoder else adapters.find(info.path)
    if not found:
        return info
    return msgspec.structs.replace(
        info,
        adapters=found,
        bytes=info.bytes + sum(adapter.bytes for adapter in found),
        capabilities=(*info.capabilities, "adapters"),
    )


def _kv_bytes_per_token(decoder: _Decoder) -> int:
    """A key and a value for each layer, in float32: a configuration does not say if it is less."""
    values = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size
    return _KV_VALUE_BYTES * values


def _subdirectories(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return []


def _walk(path: Path, depth: int) -> Iterator[Path]:
    for child in _subdirectories(path) if depth else []:
        yield child
        yield from _walk(child, depth - 1)
