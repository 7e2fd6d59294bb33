"""LoRA adapters in memory, beside a model of onnxruntime-genai."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

import onnxruntime_genai as og

from lemonade_serve import errors
from lemonade_serve.protocol.messages import Adapter
from lemonade_serve.worker.engines.base import failure_code


class Adapters:
    """At most `capacity` bytes of them; `trial` computes something with one.

    A file is copied before it is read: onnxruntime-genai maps it, and one that is written to while
    it is mapped could end the process.
    """

    def __init__(self, model: og.Model, capacity: int, trial: Callable[[Adapter], object]) -> None:
        self._native = og.Adapters(model)
        self._capacity = capacity
        self._trial = trial
        self._names: dict[Adapter, str] = {}
        """What each is called there, the least recently used first."""
        self._loads = 0

    def fit(self, adapters: Collection[Adapter]) -> bool:
        """Whether they can be in memory at the same time. One that never can has only to fail."""
        sizes = [one.bytes for one in adapters if one.bytes <= self._capacity]
        return sum(sizes) <= self._capacity

    def surplus(self, adapter: Adapter, used: Collection[Adapter]) -> list[Adapter]:
        """Those that have to be unloaded before this one is loaded, if those in use stay: what its
        file was before, and for room those used least recently."""
        going: list[Adapter] = []
        if adapter not in self._names and adapter.bytes <= self._capacity:
            free = self._capacity - adapter.bytes - sum(one.bytes for one in self._names)
            for other in sorted(self._names, key=lambda other: other.path != adapter.path):
                if other not in used and (free < 0 or other.path == adapter.path):
                    going.append(other)
                    free += other.bytes
        return going

    def load(self, adapter: Adapter) -> None:
        """Unless it is there. Raises ModelLoadError for one that is of no use, and NoCapacity where
        there is no memory; nothing of it stays then."""
        if name := self._names.pop(adapter, None):
            self._names[adapter] = name
            return
        self._loads += 1
        name = str(self._loads)
        self._read(adapter, name)
        self._names[adapter] = name
        if fault := self._fault(adapter):
            self.unload(adapter)
            raise fault

    def unload(self, adapter: Adapter) -> None:
        """Nothing computes with it any more."""
        self._native.unload(self._names.pop(adapter))

    def activate(self, adapter: Adapter, generator: og.Generator) -> None:
        """Let a new generator compute with one that is loaded, from its first token on."""
        generator.set_active_adapter(self._native, self._names[adapter])

    def _read(self, adapter: Adapter, name: str) -> None:
        if adapter.bytes > self._capacity:
            raise errors.ModelLoadError(
                f"{adapter.name} has {adapter.bytes} bytes, worker.max_adapter_bytes is "
                f"{self._capacity}"
            )
        copy = os.memfd_create("adapter", os.MFD_CLOEXEC)
        try:
            _copy(adapter, copy)
            self._native.load(f"/proc/self/fd/{copy}", name)
        except OSError as error:
            why = f"{adapter.name} cannot be read: {error.strerror}"
            raise errors.ModelLoadError(why) from error
        except RuntimeError as error:
            why = f"{adapter.path} is damaged, or is no adapter of ONNX Runtime's"
            raise errors.ModelLoadError(why) from error
        finally:
            os.close(copy)

    def _fault(self, adapter: Adapter) -> errors.LemonadeError | None:
        """Why it cannot be computed with, in ONNX Runtime's words; None if it can."""
        try:
            self._trial(adapter)
        except Exception as error:  # native code raises anything; a name need not even be UTF-8
            why = " ".join(str(error).split()) or type(error).__name__
            if failure_code(error) == errors.NoCapacity.code:
                return errors.NoCapacity(f"there is no memory for {adapter.name}: {why}")
            return errors.ModelLoadError(f"{adapter.name} does not fit this model: {why}")
        return None


def _copy(adapter: Adapter, to: int) -> None:
    """Raises ModelLoadError for one that is another one by now."""
    with Path(adapter.path).open("rb") as file:
        left = adapter.bytes
        while left and (sent := os.sendfile(to, file.fileno(), None, left)):
            left -= sent
        if left or file.read(1):
            raise errors.ModelLoadError(f"{adapter.name} is being written: ask again")
