"""How the weights get to the disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Type

from lemonade_serve.importers.gguf import import_gguf
from tests.unit.importers.files import Model


class ReluctantFile(io.FileIO):
    """Takes a part of what it is given, as any file may: those on a disk that is nearly full do."""

    def write(self, data: Any, /) -> int:
        return super().write(memoryview(data).cast("B")[:1000])


class ReluctantPath(type(Path())):  # type: ignore[misc]
    def open(self, mode: str = "r", buffering: int = -1, **more: Any) -> Any:
        if (mode, buffering) == ("wb", 0):
            return ReluctantFile(str(self), "wb")
        return super().open(mode, buffering, **more)


def test_a_file_that_takes_a_part_at_a_time_gets_all_of_it(tmp_path: Path) -> None:
    source = Model("llama", Type.Q8_0, tied=False).write(tmp_path / "tiny.gguf")
    contents = []
    for into in (tmp_path / "usual", ReluctantPath(tmp_path / "reluctant")):
        into.mkdir()
        import_gguf(source, into, progress=lambda stage, fraction: None)
        contents.append((into / "model.onnx.data").read_bytes())
    assert contents[0] == contents[1]
