"""`lemonade-serve doctor`, on this very machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lemonade_serve.cli.doctor import doctor
from lemonade_serve.devices.container import is_container


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Settings with a port that is free, and directories of the test's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "lemonade.toml"
    file.write_text(
        f'cache_dir = "{tmp_path}/cache"\nstate_dir = "{tmp_path}/state"\nserver.port = {port}\n'
    )
    return file


def invoke(file: Path, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(doctor, ["--config", str(file), *arguments], env=environment)


def findings(result: Result) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(result.stdout):
        found.setdefault(finding["subject"], []).append(finding)
    return found


def test_a_machine_that_can_serve_has_no_failure(file: Path) -> None:
    result = invoke(file, LEMONADE_API_KEYS__ALICE="geheim")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"ok    settings      {file}, LEMONADE_API_KEYS__ALICE; 1 API keys"
    assert {line.split()[0] for line in lines if not line.startswith(" ")} <= {"ok", "warn"}
    subjects = {line.split()[1] for line in lines if not line.startswith(" ")}
    assert {"settings", "memory", "cpus", "onnxruntime", "cache_dir", "state_dir", "server"} <= (
        subjects
    )
    assert "geheim" not in result.output


def test_programs_get_json(file: Path) -> None:
    found = findings(invoke(file, "--json"))
    (server,) = found["server"]
    assert server["level"] == "ok"
    assert set(server) == {"level", "subject", "said", "advice"}
    assert [finding["level"] for finding in found["devices.cpu"]] == ["ok", "ok"]


def test_a_provider_that_is_not_there_is_a_failure(file: Path) -> None:
    result = invoke(file, "--json", LEMONADE_DEVICES__NPU__EXECUTION_PROVIDER="no-such")
    assert result.exit_code == 1
    (npu,) = findings(result)["devices.npu"]
    assert npu["level"] == "fail"
    assert "the execution provider no-such is not installed" in npu["said"]
    assert [finding["level"] for finding in findings(result)["devices.cpu"]] == ["ok", "ok"]


def test_settings_that_are_wrong_are_a_failure_and_the_rest_is_looked_at(file: Path) -> None:
    file.write_text("prot = 1")
    state = str(file.parent / "state")
    result = invoke(file, "--json", "--state-dir", state)
    assert result.exit_code == 1
    found = findings(result)
    assert "did you mean server.port?" in found["settings"][0]["said"]
    assert state in found["state_dir"][0]["said"]


@pytest.mark.parametrize(
    ("name", "value", "subject"),
    [
        ("API_KEYS_FILE", "/nowhere/keys", "settings"),
        ("CACHE_DIR", "~no-such-user/cache", "cache_dir"),
        ("DEVICES__CPU__EXECUTION_PROVIDER", "no-such", "devices.cpu"),
        ("DEVICES__ORDER", "cpu:cpu", "devices"),
    ],
)
def test_one_failure_does_not_hide_what_comes_after(
    file: Path, name: str, value: str, subject: str
) -> None:
    result = invoke(file, "--json", **{f"LEMONADE_{name}": value})
    assert result.exit_code == 1
    found = findings(result)
    assert "fail" in [finding["level"] for finding in found[subject]]
    assert "server" in found


def test_a_file_with_secrets_that_all_can_read_is_a_warning(file: Path) -> None:
    file.chmod(0o644)
    quiet = findings(invoke(file, "--json"))["settings"]
    assert [finding["level"] for finding in quiet] == ["ok"]
    keys = file.with_name("keys.toml")
    keys.write_text('bob = "geheim"\n')
    keys.chmod(0o604)
    file.write_text(file.read_text() + 'api_keys.alice = "g"\n')
    _, *warnings = findings(invoke(file, "--json", LEMONADE_API_KEYS_FILE=str(keys)))["settings"]
    assert sorted(warning["advice"] for warning in warnings) == [
        f"chmod o-r {keys}",
        f"chmod o-r {file}",
    ]
    file.chmod(0o600)
    keys.chmod(0o600)
    settings = findings(invoke(file, "--json", LEMONADE_API_KEYS_FILE=str(keys)))["settings"]
    assert [finding["level"] for finding in settings] == ["ok"]


def test_an_address_that_the_daemon_would_refuse_is_a_failure(file: Path) -> None:
    environment = {"LEMONADE_SERVER__HOST": "0.0.0.0"}  # noqa: S104
    result = invoke(file, "--json", **environment)
    assert result.exit_code == 1
    _, exposed = findings(result)["settings"]
    assert (exposed["level"], "--allow-keyless" in exposed["said"]) == ("fail", True)
    environment["LEMONADE_SERVER__ALLOW_KEYLESS"] = "true"
    _, exposed = findings(invoke(file, "--json", **environment))["settings"]
    assert (exposed["level"], "there are no API keys" in exposed["said"]) == ("warn", True)


def test_what_is_sent_with_traces_is_a_secret_too(file: Path) -> None:
    headers = file.with_name("headers.toml")
    environment = {
        "LEMONADE_TRACING__ENDPOINT": "http://127.0.0.1:4318/v1/traces",
        "LEMONADE_TRACING__HEADERS_FILE": str(headers),
    }
    _, refused = findings(invoke(file, "--json", **environment))["settings"]
    assert (refused["level"], "tracing.headers_file" in refused["said"]) == ("fail", True)
    headers.write_text('x-key = "geheim"\n')
    headers.chmod(0o604)
    file.chmod(0o604)
    file.write_text(file.read_text() + 'tracing.headers.x-other = "geheim"\n')
    _, *warnings = findings(invoke(file, "--json", **environment))["settings"]
    assert sorted(warning["advice"] for warning in warnings) == [
        f"chmod o-r {headers}",
        f"chmod o-r {file}",
    ]


def test_what_a_container_needs_is_one_line_for_docker() -> None:
    result = CliRunner().invoke(doctor, ["--docker"])
    assert result.exit_code == int(is_container())
    (line,) = result.stdout.splitlines()
    assert line.split()[-1].startswith("lemonade-serve:")
    assert ("ask on the host" in result.stderr) == is_container()


def test_what_a_container_needs_is_an_overlay_for_compose() -> None:
    overlay = CliRunner().invoke(doctor, ["--compose"]).stdout.splitlines()
    assert overlay[0] == "services:"
    assert overlay[2] == "  lemonade:"
    assert overlay[3].startswith("    image: lemonade-serve:")


def test_what_a_container_needs_is_json_for_programs() -> None:
    told = json.loads(CliRunner().invoke(doctor, ["--docker", "--json"]).stdout)
    assert told["in_container"] == is_container()
    assert {"devices", "groups", "ulimits", "environment", "image", "notes"} < set(told)
