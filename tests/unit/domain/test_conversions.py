"""Conversions: what is made for whom, and where nothing can be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from lemonade_serve import errors
from lemonade_serve.domain.conversions import convert_directory
from lemonade_serve.hub.catalog import DiskCatalog
from lemonade_serve.protocol.jobs import ConvertModel, JobDone, Recipe
from tests.fakes import FakeConverter, asynchronous, conversions


def left_in(root: Path) -> list[Path]:
    return list(root.iterdir())


INT4 = Recipe("int4", "cpu", "k_quant", 32)


async def convert(root: Path, converter: FakeConverter, name: str | None = None) -> Path:
    return await convert_directory(
        Path("/models/small"),
        name,
        INT4,
        conversions=conversions(converter),
        shelf=DiskCatalog(root),
        progress=lambda stage, done: None,
    )


@pytest.mark.parametrize(
    ("dtype", "providers", "recipe"),
    [
        ("auto", ["cpu"], INT4),
        ("int8", ["cpu"], Recipe("int8", "cpu", "default", 32)),
        ("fp16", ["webgpu", "cpu"], Recipe("fp16", "webgpu", "default", 32)),
        ("auto", ["openvino", "cpu"], INT4),
    ],
)
def test_a_recipe_is_for_the_first_device_that_anything_can_be_made_for(
    dtype: str, providers: list[str], recipe: Recipe
) -> None:
    assert conversions().recipe(dtype, providers) == recipe


@pytest.mark.parametrize(
    ("dtype", "providers", "says"),
    [
        ("fp16", ["cpu"], "no fp16 for cpu, but int4, int8, fp32"),
        ("auto", ["openvino"], "nothing can be made for openvino"),
    ],
)
def test_what_the_builder_does_not_make_is_said_before_anything_is_done(
    dtype: str, providers: list[str], says: str
) -> None:
    with pytest.raises(errors.DeviceUnavailable, match=says):
        conversions().recipe(dtype, providers)


@pytest.mark.parametrize(("dtype", "made"), [("auto", "fp32"), ("int8", "int8"), ("fp16", "fp16")])
def test_encoders_are_made_for_the_cpu_and_exact_unless_it_is_said(dtype: str, made: str) -> None:
    recipe = conversions(encoders=True).recipe(dtype, ["webgpu", "cpu"])
    assert recipe == Recipe(made, "cpu", "default", 32)
    with pytest.raises(errors.DeviceUnavailable, match="optimum makes no int4 for cpu"):
        conversions(encoders=True).recipe("int4", ["cpu"])


@asynchronous
async def test_encoders_have_an_environment_and_bounds_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModel, match=r"set convert\.encoder_python"):
        await conversions(encoders=True).require()
    converter = FakeConverter()
    making = conversions(converter, encoders=True)
    recipe = making.recipe("auto", ["cpu"])
    await making.make(Path("/models/small"), tmp_path, recipe, lambda *_: None)
    (job,) = converter.conversions
    assert (job.encoder, job.min_cosine, job.max_score_error) == (True, 0.9, 0.1)


@asynchronous
async def test_a_model_is_called_as_its_directory_or_as_is_said(tmp_path: Path) -> None:
    converter = FakeConverter()
    assert await convert(tmp_path, converter) == tmp_path / "small" / "int4"
    assert await convert(tmp_path, converter, "org/x") == tmp_path / "org" / "x" / "int4"
    job, _ = converter.conversions
    assert (job.source, job.recipe, job.keep_free) == ("/models/small", INT4, 7)


@asynchronous
async def test_without_an_exporter_it_is_said_what_to_do_and_nothing_is_done(
    tmp_path: Path,
) -> None:
    converter = FakeConverter("torch", "onnx-ir")
    with pytest.raises(errors.UnsupportedModel) as refused:
        await convert(tmp_path, converter)
    assert "/its/python cannot: it has no torch, onnx-ir" in refused.value.message
    assert "extra `export`, and set convert.python" in refused.value.message
    assert converter.conversions == []
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "failure", [errors.JobFailed("no"), errors.DiskFull("no"), asyncio.CancelledError()]
)
def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        asyncio.run(convert(tmp_path, FakeConverter(failure=failure)))
    assert left_in(tmp_path) == []


class Held(FakeConverter):
    """Converts when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.most, self.running = asyncio.Event(), 0, 0
        self.may = asyncio.Event()

    async def convert(self, job: ConvertModel, progress: Callable[[str, float], None]) -> JobDone:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        await self.may.wait()
        self.running -= 1
        return JobDone("x", "int4")


@asynchronous
async def test_one_is_converted_at_a_time(tmp_path: Path) -> None:
    held, told = Held(), []
    every = conversions(held)

    def make() -> asyncio.Task[JobDone]:
        return asyncio.create_task(
            every.make(tmp_path, tmp_path, INT4, lambda stage, done: told.append(stage))
        )

    first, second = make(), make()
    await held.begun.wait()
    held.may.set()
    await asyncio.gather(first, second)
    assert held.most == 1
    assert told == ["waiting for its turn"] * 2
