"""The probe process: the real one, and some that do what a bad driver does."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from lemonade_serve.devices.providers import (
    Probe,
    Probed,
    ProbeFailed,
    execution_providers,
    probe,
    same,
)
from lemonade_serve.domain.device import Device, ExecutionProvider
from lemonade_serve.settings import Device as DeviceSettings
from lemonade_serve.settings import Devices
from tests import plugins

CPU = ExecutionProvider(name="cpu", hardware="cpu")


def ask(provider: ExecutionProvider, *, timeout_s: float = 60.0) -> Probed:
    return asyncio.run(probe(provider, timeout_s=timeout_s))


def reason(code: str, *, timeout_s: float = 60.0) -> str:
    command = [sys.executable, "-c", code]
    with leaving_none():
        found = asyncio.run(probe(CPU, command=command, timeout_s=timeout_s))
    assert isinstance(found, ProbeFailed)
    return found.reason


@contextmanager
def leaving_none() -> Iterator[None]:
    """Other tests have children too."""
    before = psutil.Process().children()
    yield
    assert set(psutil.Process().children()) <= set(before)


def npu(name: str, library: object = None) -> ExecutionProvider:
    return ExecutionProvider(name=name, hardware="npu", library=library and str(library))


class TestProcess:
    def test_a_crash_is_a_finding(self) -> None:
        assert reason("import os; os.abort()") == "it was killed by signal 6 (SIGABRT)"

    def test_any_signal_is_a_finding(self) -> None:
        kill = "import os; os.kill(os.getpid(), 40)"
        assert reason(kill) == "it was killed by signal 40"

    def test_an_error_is_a_finding_with_its_last_words(self) -> None:
        assert reason("import nothing_of_the_kind") == (
            "it ended with 1: ModuleNotFoundError: No module named 'nothing_of_the_kind'"
        )

    def test_a_probe_that_hangs_is_ended(self) -> None:
        assert reason(plugins.HANGS, timeout_s=0.01) == "it did not answer within 0.01 s"

    def test_nonsense_is_a_finding(self) -> None:
        assert reason("print('hello')").startswith("it answered nonsense: ")
        assert reason("print('{}')").startswith("it answered nonsense: ")

    def test_one_that_says_the_same_without_end_takes_no_memory(self) -> None:
        say = "import sys; print('no such device ' * 2000000, file=sys.stderr); sys.exit('in vain')"
        tracemalloc.start()
        assert reason(say) == "it ended with 1: in vain"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5_000_000
        assert len(reason(say.replace("'in vain'", "2 and 'x' * 9999999"))) < 2000

    def test_a_probe_that_cannot_start_is_a_finding(self) -> None:
        found = asyncio.run(probe(CPU, command=["/nowhere/python"], timeout_s=60))
        assert isinstance(found, ProbeFailed)
        assert "No such file" in found.reason

    def test_one_that_nobody_waits_for_any_more_is_ended(self) -> None:
        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await probe(CPU, timeout_s=60)

        with leaving_none():
            asyncio.run(give_up())


class TestRealProbe:
    def test_it_finds_the_cpu(self) -> None:
        found = ask(CPU)
        assert isinstance(found, Probe), found
        assert found.has("cpu")
        assert "cpu" in [device.kind for device in found.seen_by("cpu")]
        assert (found.library, found.library_error, found.session_error) == (None, "", "")
        assert found.onnxruntime
        assert found.onnxruntime_genai

    @pytest.mark.parametrize("name", ["no-such", "nor.this.one"])
    def test_a_provider_that_is_nowhere_is_not_here(self, name: str) -> None:
        found = ask(npu(name))
        assert isinstance(found, Probe), found
        assert not found.has(name)

    def test_a_text_file_does_not_load(self, tmp_path: Path) -> None:
        library = tmp_path / "libplugin.so"
        library.write_text("not a library, however long this text may be " * 10)
        found = ask(npu("other", library))
        assert isinstance(found, Probe), found
        assert found.has("other")
        assert found.library == str(library)
        assert "invalid ELF header" in found.library_error
        assert not found.library_error.startswith("[")

    def test_a_library_that_is_not_there_does_not_load(self, tmp_path: Path) -> None:
        found = ask(npu("other", tmp_path / "libplugin.so"))
        assert isinstance(found, Probe), found
        assert f"{tmp_path}/libplugin.so: cannot open shared object" in found.library_error

    def test_a_library_of_another_kind_does_not_load(self) -> None:
        found = ask(npu("other", msgspec._core.__file__))
        assert isinstance(found, Probe), found
        assert "undefined symbol: CreateEpFactories" in found.library_error

    def test_one_that_crashes_takes_its_process_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", plugins.stand_in(tmp_path, "bad", plugins.CRASHES))
        assert ask(npu("bad")) == ProbeFailed("it was killed by signal 11 (SIGSEGV)")

    def test_one_that_hangs_is_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", plugins.stand_in(tmp_path, "bad", plugins.HANGS))
        with leaving_none():
            assert ask(npu("bad"), timeout_s=1) == ProbeFailed("it did not answer within 1 s")

    def test_a_package_that_is_broken_has_the_last_word(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = "import onnxruntime_ep_bad.vanished"
        monkeypatch.setenv("PYTHONPATH", plugins.stand_in(tmp_path, "bad", broken))
        found = ask(npu("bad"))
        assert isinstance(found, ProbeFailed)
        assert found.reason.endswith("No module named 'onnxruntime_ep_bad.vanished'")


@pytest.mark.system
class TestRealPlugins:
    @pytest.fixture(autouse=True)
    def _installed(self, plugin_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", plugins.on_path(plugin_packages))

    def test_openvino_is_found_and_adds_on_the_cpu(self, plugin_packages: Path) -> None:
        found = ask(ExecutionProvider(name="openvino", hardware="cpu"))
        assert isinstance(found, Probe), found
        assert found.library == str(plugins.library(plugin_packages, "openvino"))
        assert (found.library_error, found.session_error) == ("", "")
        assert "cpu" in [device.kind for device in found.seen_by("openvino")]

    def test_options_that_its_device_refuses_are_told_before_anyone_asks(self) -> None:
        options = (("load_config", '{"CPU": {"NO_SUCH": "1"}}'),)
        found = ask(ExecutionProvider(name="openvino", hardware="cpu", options=options))
        assert isinstance(found, Probe), found
        assert "Unsupported property NO_SUCH" in found.session_error

    def test_webgpu_is_found(self, plugin_packages: Path) -> None:
        found = ask(ExecutionProvider(name="webgpu", hardware="gpu"))
        assert isinstance(found, Probe), found
        assert found.library == str(plugins.library(plugin_packages, "webgpu"))
        assert found.library_error == ""

    def test_a_library_without_those_beside_it_names_the_first_it_lacks(
        self, plugin_packages: Path, tmp_path: Path
    ) -> None:
        library = plugins.alone(plugins.library(plugin_packages, "openvino"), tmp_path)
        found = ask(npu("openvino", library))
        assert isinstance(found, Probe), found
        assert "libopenvino" in found.library_error
        assert "cannot open shared object file" in found.library_error


class TestSettings:
    def test_each_device_has_hardware_of_its_own_kind(self) -> None:
        openvino = DeviceSettings(execution_provider="openvino")
        found = execution_providers(Devices(npu=openvino, igpu=openvino, cpu=openvino))
        assert [one.hardware for one in found.values()] == ["npu", "gpu", "cpu"]
        assert {one.name for one in found.values()} == {"openvino"}

    def test_what_the_settings_say_is_passed_on(self) -> None:
        own = DeviceSettings(
            execution_provider="vitisai",
            library="/opt/plugin.so",
            provider_options={"a": "1", "b": "2"},
            hardware="gpu",
        )
        expected = ExecutionProvider(
            name="vitisai",
            hardware="gpu",
            library="/opt/plugin.so",
            options=(("a", "1"), ("b", "2")),
        )
        off = DeviceSettings(execution_provider="")
        assert execution_providers(Devices(npu=own, cpu=off)) == {Device.NPU: expected}

    @pytest.mark.parametrize("name", ["cpu", "CPUExecutionProvider"])
    def test_the_cpu_is_a_cpu_wherever_it_stands_in(self, name: str) -> None:
        own = DeviceSettings(execution_provider=name, library="/opt/plugin.so")
        assert execution_providers(Devices(npu=own))[Device.NPU] == CPU


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("cpu", "CPUExecutionProvider", True),
        ("OpenVINO", "openvinoexecutionprovider", True),
        ("openvino", "OpenVINOExecutionProvider", True),
        ("openvino", "OpenVINOExecutionProvider.AUTO", False),
        ("cuda", "CPUExecutionProvider", False),
    ],
)
def test_a_provider_has_a_long_and_a_short_name(one: str, other: str, alike: bool) -> None:
    assert same(one, other) is alike
