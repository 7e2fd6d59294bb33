"""Devices that cannot serve, and those that serve beside them: real daemons, real probes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import plugins
from tests.acceptance.calls import unload
from tests.daemon import MODEL, Daemon, eventually, is_gone

Start = Callable[..., Daemon]

QUESTION = {
    "messages": [{"role": "user", "content": "In which city is the Eiffel Tower?"}],
    "temperature": 0,
}
ANSWER = "The Eiffel Tower is located in Paris, France."
"""No other token comes near, whatever is rounded how."""
WITHOUT_FILES = pytest.mark.skipif(
    os.path.exists("/dev/accel") or os.path.exists("/dev/dri"),  # noqa: PTH110
    reason="this machine has an NPU or a GPU",
)


def on(device: str, provider: str, **more: str) -> dict[str, str]:
    settings = {"execution_provider": provider, **more}
    return {f"LEMONADE_DEVICES__{device}__{k}".upper(): v for k, v in settings.items()}


def load(daemon: Daemon, device: str) -> httpx.Response:
    return daemon.client.post("/api/v0/load", json={"model": MODEL, "device": device})


def unusable(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """What the log says, by device; /health says the same."""
    lines = {line["device"]: line for line in daemon.logged("device_unusable")}
    told = {device["device"]: device for device in daemon.health()["unusable_devices"]}
    assert told == {
        device: {key: line[key] for key in ("device", "execution_provider", "reason", "advice")}
        for device, line in lines.items()
    }
    assert all(line["level"] == "warning" for line in lines.values())
    return lines


def refusal(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    return str(answer.json()["message"])


def test_a_machine_with_a_cpu_alone_says_so_and_asks_nobody(shared_daemon: Daemon) -> None:
    (line,) = shared_daemon.logged("device_usable")
    assert (line["device"], line["found"]) == ("cpu", "runs on the CPU")
    assert unusable(shared_daemon) == {}


def test_a_device_that_cannot_serve_is_not_offered_and_the_others_serve(
    start_daemon: Start, tmp_path: Path
) -> None:
    library = tmp_path / "libplugin.so"
    library.write_text("no library at all, but a text that is long enough to be read as one")
    daemon = start_daemon(**on("npu", "openvino"), **on("igpu", "vitisai", library=str(library)))
    found = unusable(daemon)
    assert set(found) == {"npu", "igpu"}
    assert str(library) in found["igpu"]["reason"]
    message = refusal(load(daemon, "npu"), 400, "device_unavailable")
    assert found["npu"]["reason"] in message
    assert found["npu"]["advice"] in message
    assert message.endswith("available: hybrid, cpu")
    assert daemon.complete(MODEL).status_code == 200
    assert [device["device"] for device in daemon.health()["devices"]] == ["cpu"]
    assert daemon.client.get("/readyz").status_code == 200
    shown = subprocess.run(
        [sys.executable, "-m", "lemonade_serve", "ps"],
        env={**os.environ, "LEMONADE_URL": f"unix:{daemon.socket}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found["npu"]["reason"] in shown


def test_without_any_device_the_daemon_answers_and_is_not_ready(start_daemon: Start) -> None:
    daemon = start_daemon(**on("cpu", "no-such"))
    reason = unusable(daemon)["cpu"]["reason"]
    assert reason == "the execution provider no-such is not installed"
    assert daemon.client.get("/livez").status_code == 200
    ready = daemon.client.get("/readyz")
    assert (ready.status_code, reason in ready.text) == (503, True)
    assert int(ready.headers["retry-after"]) >= 1
    answer = daemon.complete(MODEL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_device")
    assert reason in answer.json()["error"]["message"]
    refusal(load(daemon, "cpu"), 503, "no_device")
    assert daemon.client.get("/api/v0/models").status_code == 200
    assert daemon.client.get("/metrics").status_code == 200
    assert daemon.terminate() == 0


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (plugins.CRASHES, "it was killed by signal 11 (SIGSEGV)"),
        (plugins.HANGS, "it did not answer within 3 s"),
    ],
    ids=["crashes", "hangs"],
)
def test_a_plugin_that_crashes_or_hangs_costs_its_own_device(
    start_daemon: Start, tmp_path: Path, does: str, reason: str
) -> None:
    path = plugins.stand_in(tmp_path, "bad", does)
    daemon = start_daemon(
        PYTHONPATH=path, LEMONADE_DEVICES__PROBE_TIMEOUT_S="3", **on("npu", "bad")
    )
    assert f"the probe of bad found nothing: {reason}" in unusable(daemon)["npu"]["reason"]
    assert daemon.complete(MODEL).status_code == 200


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_while_it_looks_takes_its_probes_along(
    cache_dir: Path, tmp_path: Path, how: signal.Signals
) -> None:
    environment = {
        "PYTHONPATH": plugins.stand_in(tmp_path, "bad", plugins.HANGS),
        "LEMONADE_CACHE_DIR": str(cache_dir),
        "LEMONADE_STATE_DIR": str(tmp_path / "state"),
        "LEMONADE_SERVER__UDS": str(tmp_path / "daemon.sock"),
        "LEMONADE_DEVICES__PROBE_TIMEOUT_S": "600",
        **on("npu", "bad"),
    }
    command = [sys.executable, "-m", "lemonade_serve", "serve"]
    with subprocess.Popen(command, env={**os.environ, **environment}) as daemon:

        def hanging() -> list[psutil.Process]:
            children = psutil.Process(daemon.pid).children()
            return [c for c in children if "lemonade_serve.devices.probe" in c.cmdline()]

        (probe,) = eventually(hanging)
        daemon.send_signal(how)
        assert daemon.wait(60) == (0 if how is signal.SIGTERM else -how)
        eventually(lambda: is_gone(probe))


@pytest.mark.system
class TestRealPlugins:
    @WITHOUT_FILES
    def test_what_is_missing_is_said_by_name(
        self, start_daemon: Start, plugin_packages: Path
    ) -> None:
        daemon = start_daemon(
            PYTHONPATH=plugins.on_path(plugin_packages),
            **on("npu", "openvino"),
            **on("igpu", "webgpu"),
        )
        found = unusable(daemon)
        assert found["npu"]["reason"].startswith("there is no /dev/accel/accel*")
        assert found["igpu"]["reason"].startswith("there is no /dev/dri/renderD*")
        assert "doctor --docker" in found["npu"]["advice"]
        assert not [device for device in found.values() if "provider" in device["reason"]]
        assert daemon.complete(MODEL).status_code == 200

    def test_openvino_serves_on_a_cpu_beside_the_cpu(
        self, start_daemon: Start, plugin_packages: Path
    ) -> None:
        daemon = start_daemon(
            PYTHONPATH=plugins.on_path(plugin_packages), **on("npu", "openvino", hardware="cpu")
        )
        assert unusable(daemon) == {}
        (npu, _) = daemon.logged("device_usable")
        assert npu["found"].startswith("openvino runs on a cpu of ")
        for device, engine in (("npu", "onnxruntime-genai"), ("cpu", "batched")):
            assert load(daemon, device).status_code == 200
            answer = daemon.client.post("/v1/chat/completions", json={"model": MODEL, **QUESTION})
            assert answer.json()["choices"][0]["message"]["content"] == ANSWER
            loaded = daemon.model()
            assert (loaded["device"], loaded["engine"]) == (device, engine)
            unload(daemon, model=MODEL)

    def test_an_engine_that_openvino_cannot_run_is_refused_at_the_load(
        self, start_daemon: Start, plugin_packages: Path
    ) -> None:
        daemon = start_daemon(
            LEMONADE_WORKER__ENGINE="batched",
            **on(
                "npu",
                "openvino",
                hardware="cpu",
                library=str(plugins.library(plugin_packages, "openvino")),
            ),
        )
        message = refusal(load(daemon, "npu"), 500, "model_load_error")
        assert "it runs on openvino, not on cpu" in message
