"""The bodies of the Lemonade specification."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lemonade_serve.domain.checkpoint import AUTO
from lemonade_serve.domain.completion import Placement
from lemonade_serve.domain.device import HYBRID
from lemonade_serve.domain.sampling import Options


class LoadBody(Placement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to load, and where."""

    model: str


class UnloadBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing given: everything goes."""

    model: str | None = None
    device: str | None = None
    force: bool = False


class CompletionBody(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, and all that may be said about its model and its parameters."""

    prompt: Annotated[str, Meta(min_length=1)]
    stream: bool = False
    model: str | None = None
    device: str = HYBRID
    dtype: str = AUTO
    cache_dir: str | None = None

    def placement(self) -> Placement:
        return Placement(
            model=self.model, device=self.device, dtype=self.dtype, cache_dir=self.cache_dir
        )


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    model: str
    finish_reason: str
    usage: Usage


class Status(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    message: str


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What is null is not known before the model is loaded. `memory_bytes` is the resident size
    of its worker, `last_use` in Unix seconds."""

    model_name: str
    checkpoint: str
    device: str
    dtype: str
    state: str
    engine: str | None
    is_busy: bool
    is_streaming: bool
    requests_running: int
    requests_waiting: int
    memory_bytes: int | None
    last_use: float
    pid: int | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    model_loaded: str | None
    all_models_loaded: list[LoadedModel]
    devices: list[str]
    version: str
