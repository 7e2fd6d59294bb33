"""The bodies of the Lemonade specification."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from lemonade_serve.api.keep_alive import KeepAlive
from lemonade_serve.domain.checkpoint import AUTO
from lemonade_serve.domain.clients import Source
from lemonade_serve.domain.device import HYBRID
from lemonade_serve.domain.residency.slot import SlotState
from lemonade_serve.settings import parameters
from lemonade_serve.settings.parameters import Options

ModelName = Annotated[str, Meta(description="The name of a checkpoint.")]
DeviceName = Annotated[str, Meta(description="`npu`, `igpu`, `cpu`, or `hybrid`: the best one.")]
DtypeName = Annotated[str, Meta(description="`int4`, `int8`, `fp16`, `bf16`, `fp32` or `auto`.")]
CacheDir = Annotated[str, Meta(description="Where checkpoints are; only under allowed roots.")]


class Where(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model is resident."""

    model: ModelName
    device: DeviceName = HYBRID
    dtype: DtypeName = AUTO


class LoadBody(Where, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to load, where, and how long it stays after its last request."""

    cache_dir: CacheDir | None = None
    keep_alive: KeepAlive | None = None


class PinBody(Where, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to load and keep: nothing evicts it until it is unpinned."""


class UnpinBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing given: no pin stays."""

    model: ModelName | None = None
    device: DeviceName | None = None


class UnloadBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing given: everything goes."""

    model: ModelName | None = None
    device: DeviceName | None = None
    force: Annotated[bool, Meta(description="Cut running requests.")] = False


RepositoryName = Annotated[
    str, Meta(description="A repository of the hub: `OWNER/NAME`, or `OWNER/NAME@REVISION`.")
]


class PullBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to get from the hub, and what to call it here."""

    model: RepositoryName
    include: Annotated[
        tuple[str, ...], Meta(description="Patterns of the files to choose among.")
    ] = ()
    dtype: DtypeName = AUTO
    name: ModelName | None = None
    stream: bool = False


class PullProgress(msgspec.Struct, frozen=True, kw_only=True):
    """While it streams. `fraction` of the whole is done, from 0 to 1."""

    status: Literal["pulling"] = "pulling"
    stage: str
    fraction: float


class AliasBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`alias` stands for `model` from now on: a name, perhaps with `@REVISION`, `:DTYPE` or
    `:ADAPTER`."""

    alias: ModelName
    model: ModelName


class AliasEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and what it stands for."""

    alias: str
    model: str


class AliasList(msgspec.Struct, frozen=True, kw_only=True):
    data: list[AliasEntry]


class CompletionBody(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, and all that may be said about its model and its parameters."""

    prompt: Annotated[str, Meta(min_length=1)]
    stream: bool = False
    model: ModelName | None = None
    device: DeviceName = HYBRID
    dtype: DtypeName = AUTO
    cache_dir: CacheDir | None = None
    keep_alive: KeepAlive | None = None


class ParamsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to keep from now on; `null` puts a field back. `model`: for this model only."""

    model: ModelName | None = None
    temperature: parameters.Temperature | UnsetType | None = UNSET
    top_p: parameters.TopP | UnsetType | None = UNSET
    top_k: parameters.TopK | UnsetType | None = UNSET
    min_p: parameters.MinP | UnsetType | None = UNSET
    min_length: parameters.MinLength | UnsetType | None = UNSET
    max_length: parameters.MaxLength | UnsetType | None = UNSET
    do_sample: bool | UnsetType | None = UNSET
    repetition_penalty: parameters.RepetitionPenalty | UnsetType | None = UNSET
    presence_penalty: parameters.Penalty | UnsetType | None = UNSET
    frequency_penalty: parameters.Penalty | UnsetType | None = UNSET
    seed: parameters.Seed | UnsetType | None = UNSET
    stop: parameters.Stop | UnsetType | None = UNSET


class ModelsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which directory to list; left out, the server's own."""

    cache_dir: CacheDir | None = None


class TextUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is what comes after the prompt."""

    text: str
    model: str
    finish_reason: str
    usage: TextUsage


class TextPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the text, while it streams."""

    text: str


class Success(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["success"] = "success"
    message: str


class PullDone(msgspec.Struct, frozen=True, kw_only=True):
    """`new`: it was not here already. `commit`: which one of the repository it is."""

    status: Literal["success"] = "success"
    message: str
    model: str
    dtype: str
    commit: str
    new: bool


class AllParams(msgspec.Struct, frozen=True, kw_only=True):
    """Every parameter that a client may keep, as it is in force."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    min_length: int
    max_length: int
    do_sample: bool
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: tuple[str, ...]


class ParamsSet(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["success"] = "success"
    message: str
    params: AllParams


class Origins(msgspec.Struct, frozen=True, kw_only=True):
    """Which layer decided each parameter."""

    temperature: Source
    top_p: Source
    top_k: Source
    min_p: Source
    min_length: Source
    max_length: Source
    do_sample: Source
    repetition_penalty: Source
    presence_penalty: Source
    frequency_penalty: Source
    seed: Source
    stop: Source


class ParamsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters in force, and where each came from."""

    status: Literal["success"] = "success"
    model: str | None
    params: AllParams
    sources: Origins


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The request that finished last; all null before the first. Times in seconds;
    `decode_token_times` are those between its tokens."""

    time_to_first_token: float | None = None
    tokens_per_second: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    decode_token_times: tuple[float, ...] | None = None
    model: str | None = None
    device: str | None = None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint on disk. `device`: where it is resident, or would be."""

    checkpoint: str
    device: str
    dtype: str


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    data: list[Checkpoint]


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What is null is not known before the model is loaded. `engine_reason` is why this engine
    serves it, `memory_bytes` what its device is charged for it, `last_use` in Unix seconds."""

    model_name: str
    checkpoint: str
    device: str
    dtype: str
    state: SlotState
    engine: str | None
    engine_reason: str | None
    pinned: bool
    is_busy: bool
    is_streaming: bool
    requests_running: int
    requests_waiting: int
    memory_bytes: int
    last_use: float
    pid: int | None


class DeviceRoom(msgspec.Struct, frozen=True, kw_only=True):
    """A device, and how much of its room is taken."""

    device: str
    execution_provider: str
    max_models: int
    models: int
    memory_budget_bytes: int
    memory_used_bytes: int


class UnusableDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the settings name, why it cannot serve, and what to do about it."""

    device: str
    execution_provider: str
    reason: str
    advice: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`model_loaded` is the resident model that was used last; `all_models_loaded` has those too
    that are on their way in or out, the one used last first; `max_models` is for each device."""

    status: Literal["ok"] = "ok"
    model_loaded: str | None
    all_models_loaded: list[LoadedModel]
    devices: list[DeviceRoom]
    unusable_devices: list[UnusableDevice]
    max_models: dict[str, int]
    version: str
