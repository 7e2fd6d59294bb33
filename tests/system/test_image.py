"""The image as its users run it: read-only, with no rights, and with bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.daemon import MODEL, eventually
from tests.system.containers import HARDENED, Container, docker, inspect

pytestmark = pytest.mark.system
StartContainer = Callable[..., Container]

MAX_BYTES = 560_000_000
GOAL_BYTES = 450_000_000
DOCKER_WAITS_S = 10
QUESTION = {"model": MODEL, "prompt": "The Eiffel Tower is in the city of", "temperature": 0}
LONG = {"model": MODEL, "prompt": "Once upon a time", "ignore_eos": True}
_IMPORTS = """
import importlib, pkgutil, lemonade_serve
for module in pkgutil.walk_packages(lemonade_serve.__path__, "lemonade_serve."):
    if not module.name.endswith("__main__") and ".migrations." not in module.name:
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # what converts is in environments of its own
            assert error.name in ("onnx_ir", "optimum", "torch"), error
"""


def test_it_is_small(image: str) -> None:
    size = inspect(image, ".Size")
    assert size <= GOAL_BYTES, f"{size} bytes; more than {MAX_BYTES} would be a bug"


def test_it_says_what_it_is_and_is_run_by_nobody_in_particular(image: str) -> None:
    config = inspect(image, ".Config")
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["Volumes"]) == {"/var/cache/lemonade", "/var/lib/lemonade"}
    assert list(config["ExposedPorts"]) == ["1234/tcp"]
    assert config["Labels"]["org.opencontainers.image.title"] == "lemonade-serve"
    assert config["Healthcheck"]["Test"] == ["CMD", "lemonade-serve", "healthcheck"]
    assert config["Entrypoint"] == ["tini", "--", "lemonade-serve"]


def test_all_that_is_imported_is_in_it_and_pip_and_tests_are_not(image: str) -> None:
    run = ("run", "--rm", *HARDENED, "--entrypoint", "python", image, "-c")
    docker(*run, _IMPORTS)
    absent = (
        "import importlib.util as u; "
        "assert not any(map(u.find_spec, ('pip', 'faker', 'torch', 'transformers')))"
    )
    docker(*run, absent)
    found = "import pathlib; assert not [*pathlib.Path('/opt/lemonade').rglob('tests/test_*.py')]"
    docker(*run, found)


def test_without_keys_it_does_not_start_and_says_how_it_would(image: str) -> None:
    done = docker("run", "--rm", *HARDENED, image, check=False)
    assert done.returncode == 1
    assert "set api_keys" in done.stderr
    assert "LEMONADE_SERVER__ALLOW_KEYLESS=true" in done.stderr


def test_hardened_and_bounded_it_is_healthy_and_computes(
    start_container: StartContainer, accelerator: str
) -> None:
    container = start_container("--memory=2g", "--cpus=1.5", "--device", accelerator)
    assert container.logged("keyless")
    assert container.logged("daemon_ready")
    completion = container.client.post("/v1/completions", json={**QUESTION, "max_tokens": 4})
    assert "Paris" in completion.json()["choices"][0]["text"]
    budget = container.client.get("/api/v0/health").json()["devices"]
    assert json.dumps(budget).count(str(2 * 2**30 * 4 // 5))
    assert "control groups allow 2.0 GiB" in container.execute("lemonade-serve", "doctor").stdout
    status = container.execute("cat", "/proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert container.execute("touch", "/etc/mine").returncode == 1
    eventually(lambda: container.health == "healthy")


def test_a_device_file_that_may_not_be_opened_names_the_group_that_opens_it(
    start_container: StartContainer, accelerator: str
) -> None:
    settings = {"LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER": "openvino"}
    container = start_container("--device", accelerator, **settings)
    advice = "--group-add 992"
    closed = "/dev/accel/accel0 may not be opened: it belongs to the group without a name here"
    doctor = container.execute("lemonade-serve", "doctor").stdout
    assert closed in doctor
    assert advice in doctor
    assert closed in container.log()
    assert advice in container.log()


def test_a_device_file_with_its_group_is_opened(
    start_container: StartContainer, accelerator: str
) -> None:
    settings = {"LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER": "openvino"}
    opened = start_container("--device", accelerator, "--group-add=992", **settings)
    for said in (opened.execute("lemonade-serve", "doctor").stdout, opened.log()):
        assert "may not be opened" not in said
        assert "the execution provider openvino is not installed" in said
        assert "lemonade-serve:openvino" in said


def test_any_user_may_run_it(start_container: StartContainer) -> None:
    container = start_container("--user=54321:54321")
    answer = container.client.post("/v1/completions", json={**QUESTION, "max_tokens": 1})
    assert answer.status_code == 200
    kept = {"temperature": 0.5}
    assert container.client.post("/api/v0/params", json=kept).status_code == 200
    assert container.execute("id", "-u").stdout.strip() == "54321"


def test_docker_stop_lets_a_stream_finish(
    start_container: StartContainer, together: ThreadPoolExecutor
) -> None:
    container = start_container()
    *events, last = _stop_in_mid_stream(container, together, max_tokens=40)
    assert last["choices"][0]["finish_reason"] == "length"
    assert len(events) > 20


def test_docker_stop_ends_a_stream_that_takes_too_long_with_an_error(
    start_container: StartContainer, together: ThreadPoolExecutor
) -> None:
    # It would take a minute and more: as slow as the test's bound on its CPU makes it.
    container = start_container("--cpus=0.3")
    *_, last = _stop_in_mid_stream(container, together, max_tokens=4000)
    assert last["error"]["code"] == "draining"


def _stop_in_mid_stream(
    container: Container, together: ThreadPoolExecutor, max_tokens: int
) -> list[dict[str, Any]]:
    """What came, when Docker stops the container at the first token."""
    events = container.events({**LONG, "max_tokens": max_tokens})
    first = next(events)
    stopped = together.submit(docker, "stop", f"--time={DOCKER_WAITS_S}", container.id)
    rest = list(events)
    stopped.result()
    assert inspect(container.id, ".State.ExitCode") == 0  # 137 when it was killed
    assert container.logged("daemon_stopped")
    return [first, *rest]
