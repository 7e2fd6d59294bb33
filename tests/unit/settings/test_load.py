"""Where a setting comes from, and what is said when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Settings, load_settings, load_sourced
from lemonade_serve.settings.parameters import Options


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lemonade.toml"


def test_nothing_given_means_the_defaults() -> None:
    assert load_settings(environment={}) == Settings()


def test_the_file_the_environment_and_the_flags_win_in_this_order(file: Path) -> None:
    file.write_text(
        'cache_dir = "/file"\n[server]\nport = 1\nhost = "file"\nuds = "/file"\n'
        "[worker]\nthreads = 3\n"
    )
    environment = {"LEMONADE_SERVER__PORT": "2", "LEMONADE_SERVER__HOST": "environment"}
    settings = load_settings(file=file, environment=environment, flags={"server": {"port": 3}})
    assert settings.server.port == 3
    assert settings.server.host == "environment"
    assert (settings.server.uds, settings.cache_dir, settings.worker.threads) == (
        "/file",
        "/file",
        3,
    )


def test_a_flag_that_is_not_given_leaves_the_rest_alone(file: Path) -> None:
    file.write_text('cache_dir = "/file"\nserver.port = 9\n')
    flags = {"cache_dir": None, "server": {"port": None, "host": None}}
    settings = load_settings(file=file, environment={}, flags=flags)
    assert (settings.cache_dir, settings.server.port) == ("/file", 9)


def test_a_flag_may_be_false(file: Path) -> None:
    file.write_text("[server]\nallow_keyless = true\n")
    settings = load_settings(file=file, environment={}, flags={"server": {"allow_keyless": False}})
    assert settings.server.allow_keyless is False


@pytest.mark.parametrize(
    ("name", "value", "section", "field", "expected"),
    [
        ("LEMONADE_WORKER__THREADS", "4", "worker", "threads", 4),
        ("LEMONADE_SERVER__STATUS_HOLD_S", "0.5", "server", "status_hold_s", 0.5),
        ("LEMONADE_SERVER__ALLOW_KEYLESS", "true", "server", "allow_keyless", True),
        ("LEMONADE_SERVER__ALLOW_KEYLESS", "0", "server", "allow_keyless", False),
        ("LEMONADE_LOG__LEVEL", "debug", "log", "level", "debug"),
        ("LEMONADE_POOL__PRELOAD", "a:b", "pool", "preload", ("a", "b")),
        ("LEMONADE_DEVICES__ORDER", "cpu:npu", "devices", "order", ("cpu", "npu")),
        ("LEMONADE_PARAMETERS__TEMPERATURE", "0.5", "parameters", "temperature", 0.5),
        ("LEMONADE_PARAMETERS__DO_SAMPLE", "false", "parameters", "do_sample", False),
        ("LEMONADE_PARAMETERS__STOP", "a:b", "parameters", "stop", "a:b"),
    ],
)
def test_the_environments_strings_become_what_the_field_is(
    name: str, value: str, section: str, field: str, expected: object
) -> None:
    settings = load_settings(environment={name: value})
    assert getattr(getattr(settings, section), field) == expected


def test_a_section_may_be_inside_a_section() -> None:
    settings = load_settings(
        environment={
            "LEMONADE_DEVICES__CPU__MAX_MODELS": "2",
            "LEMONADE_DEVICES__CPU__MEMORY_BUDGET": "12GiB",
        }
    )
    assert settings.devices.cpu.max_models == 2
    assert settings.devices.cpu.memory_budget == "12GiB"
    assert settings.devices.cpu.execution_provider == "cpu"


def test_a_file_may_have_several_stop_strings(file: Path) -> None:
    file.write_text('parameters.stop = ["a", "b"]\n')
    settings = load_settings(file=file, environment={"LEMONADE_PARAMETERS__SEED": "7"})
    assert settings.parameters == Options(stop=["a", "b"], seed=7)


def test_each_client_has_a_variable_for_its_key(file: Path) -> None:
    file.write_text('[api_keys]\ncarol = "c"\nalice = "old"\n')
    environment = {
        "LEMONADE_API_KEYS__ALICE": " a:b=c__D\n",
        "LEMONADE_API_KEYS__MY__BOT": "x",
    }
    settings = load_settings(file=file, environment=environment)
    assert settings.api_keys == {"carol": "c", "alice": " a:b=c__D\n", "my__bot": "x"}


def test_a_list_in_the_environment_is_written_as_a_path_is() -> None:
    settings = load_settings(environment={"LEMONADE_CACHE_ROOTS": "/a:/b"})
    assert settings.cache_root_paths == [Path("/a"), Path("/b")]


@pytest.mark.parametrize(
    "name", ["LEMONADE_CACHE_ROOTS", "LEMONADE_CACHE_DIR", "LEMONADE_SERVER__PORT"]
)
def test_a_variable_that_is_empty_says_nothing(name: str) -> None:
    settings = load_settings(environment={name: ""})
    assert settings == Settings()
    assert settings.cache_root_paths == []


def test_other_variables_are_not_ours() -> None:
    environment = {
        "PATH": "/bin",
        "LEMON": "1",
        "LEMONADE_CONFIG": "/x",
        "LEMONADE_URL": "http://x",
        "LEMONADE_API_KEY": "x",
        "LEMONADE_CLIENT_ID": "x",
    }
    assert load_settings(environment=environment) == Settings()


def test_paths_are_absolute_and_know_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings(environment={"LEMONADE_CACHE_ROOTS": "~/models:here"})
    assert settings.cache_path == Path("/home/somebody/.cache/lemonade")
    assert settings.cache_root_paths == [Path("/home/somebody/models"), Path.cwd() / "here"]


@pytest.mark.parametrize(
    ("content", "wrong", "hint"),
    [
        ("cash_dir = '/x'", "cash_dir", "cache_dir"),
        ("[server]\nprot = 1", "server.prot", "server.port"),
        ("[servr]\nport = 1", "servr", "server"),
        ("[worker]\nthreds = 1", "worker.threds", "worker.threads"),
        ("[devices.cpuu]\nmax_models = 1", "devices.cpuu", "devices.cpu"),
        ("[devices.cpu]\nmax_model = 1", "devices.cpu.max_model", "devices.cpu.max_models"),
        ("[parameters]\ntemprature = 1", "parameters.temprature", "parameters.temperature"),
        ("port = 1", "port", "server.port"),
        ("[server]\nthreads = 1", "server.threads", "worker.threads"),
        ("[pool]\nmax_models = 1", "pool.max_models", "devices.npu.max_models"),
    ],
)
def test_a_typo_in_the_file_is_named_with_what_was_meant(
    file: Path, content: str, wrong: str, hint: str
) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        load_settings(file=file, environment={})
    assert raised.value.message == (f"{file}: there is no setting {wrong}; did you mean {hint}?")


def test_a_typo_in_the_environment_is_named_with_what_was_meant() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environment={"LEMONADE_SERVER__PROT": "1"})
    assert raised.value.message == (
        "environment: there is no setting server.prot; did you mean server.port?"
    )


@pytest.mark.parametrize(
    ("name", "wrong", "hint"),
    [
        ("LEMONADE_SERVER_PORT", "server_port", "LEMONADE_SERVER__PORT"),
        ("LEMONADE_DEVICES__CPU_MAX_MODELS", "devices.cpu_max_models", None),
        ("LEMONADE_PORT", "port", "LEMONADE_SERVER__PORT"),
        ("LEMONADE_DEVICES__CPU__MAX_MODEL", "devices.cpu.max_model", "devices.cpu.max_models"),
        ("LEMONADE_API_KEY__ALICE", "api_key", "api_keys"),
    ],
)
def test_a_variable_of_another_section_is_called_by_its_whole_name(
    name: str, wrong: str, hint: str | None
) -> None:
    hint = hint or "LEMONADE_DEVICES__CPU__MAX_MODELS"
    with pytest.raises(SettingsError) as raised:
        load_settings(environment={name: "geheim"})
    assert raised.value.message == (
        f"environment: there is no setting {wrong}; did you mean {hint}?"
    )


def test_a_flag_that_is_no_setting_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"^command line: there is no setting xyzzy$"):
        load_settings(environment={}, flags={"xyzzy": 1})


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ('[server]\nport = "80"', "server.port"),
        ("[server]\nport = 0", "server.port"),
        ("[server]\nport = 65536", "server.port"),
        ("[server]\nallow_keyless = 1", "server.allow_keyless"),
        ("[server]\nkeepalive_s = 11", "server.keepalive_s"),
        ("[server]\ndrain_timeout_s = 0", "server.drain_timeout_s"),
        ("[server]\ndrain_timeout_s = nan", "server.drain_timeout_s"),
        ("[worker]\nsequence_slots = 0", "worker.sequence_slots"),
        ("[worker]\nthreads = -1", "worker.threads"),
        ("[worker]\nprefill_chunk_tokens = 15", "worker.prefill_chunk_tokens"),
        ("[worker]\nkv_cache_tokens = 63", "worker.kv_cache_tokens"),
        ("[worker]\nmax_client_queue = -1", "worker.max_client_queue"),
        ('[worker]\nengine = "fast"', "worker.engine"),
        ("[worker.client_weights]\nalice = 0", "worker.client_weights[...]"),
        ('[worker.client_weights]\n"no name" = 1', "worker.client_weights"),
        ('[log]\nlevel = "loud"', "log.level"),
        ('[devices.cpu]\nmemory_budget = "12 GB"', "devices.cpu.memory_budget"),
        ('[devices.cpu]\nmemory_budget = "0"', "devices.cpu.memory_budget"),
        ("[devices.cpu]\nmemory_budget = 0", "devices.cpu.memory_budget"),
        ('[devices]\norder = ["gpu"]', "devices.order[0]"),
        ("[parameters]\ntemperature = 2.1", "parameters.temperature"),
        ('cache_roots = "/a:/b"', "cache_roots"),
        ("cache_dir = 7", "cache_dir"),
        ('server = "x"', "server"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_source(
    file: Path, content: str, key: str
) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        load_settings(file=file, environment={})
    assert raised.value.message.startswith(f"{file}: ")
    assert f"`$.{key}`" in raised.value.message


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("LEMONADE_SERVER__PORT", "many", "server.port"),
        ("LEMONADE_SERVER__PORT", "0", "server.port"),
        ("LEMONADE_SERVER__ALLOW_KEYLESS", "perhaps", "server.allow_keyless"),
        ("LEMONADE_SERVER", "x", "server"),
        ("LEMONADE_CACHE_ROOTS__X", "1", "cache_roots"),
        ("LEMONADE_WORKER__CLIENT_WEIGHTS", "2", "worker.client_weights"),
        ("LEMONADE_WORKER__CLIENT_WEIGHTS__ALICE", "1001", "worker.client_weights[...]"),
    ],
)
def test_a_variable_that_cannot_be_is_named_with_its_source(
    name: str, value: str, key: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environment={name: value})
    assert raised.value.message.startswith("environment: ")
    assert f"`$.{key}`" in raised.value.message


def test_clients_have_weights_by_their_names(file: Path) -> None:
    file.write_text("[worker.client_weights]\ncarol = 3\nalice = 1\n")
    environment = {"LEMONADE_WORKER__CLIENT_WEIGHTS__ALICE": "0.5"}
    settings = load_settings(file=file, environment=environment)
    assert settings.worker.client_weights == {"carol": 3.0, "alice": 0.5}


def test_a_section_given_as_a_value_is_named() -> None:
    environment = {"LEMONADE_SERVER": "x", "LEMONADE_SERVER__PORT": "1"}
    for order in (environment, dict(reversed(environment.items()))):
        with pytest.raises(SettingsError, match=r"^environment: .*server"):
            load_settings(environment=order)


def test_a_list_that_is_given_as_a_section_too_is_named() -> None:
    environment = {"LEMONADE_CACHE_ROOTS": "/a", "LEMONADE_CACHE_ROOTS__X": "1"}
    for order in (environment, dict(reversed(environment.items()))):
        with pytest.raises(SettingsError, match=r"^environment: cache_roots is given as a section"):
            load_settings(environment=order)


@pytest.mark.parametrize(
    "content",
    [
        'api_keys = "geheim"',
        'api_keys = ["geheim"]',
        '[api_keys]\n"no name" = "geheim"',
        '[api_keys]\nalice = ["geheim"]',
        '[api_keys.alice]\nkey = "geheim"',
        'database_url = ["geheim"]',
        '[api_keys]\nalice = "geheim\nbob = "geheim"',
        '[api_keys]\nalice = "geheim"\nalice = "geheim"',
    ],
)
def test_no_error_quotes_a_secret(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        load_settings(file=file, environment={})
    assert "geheim" not in raised.value.message


@pytest.mark.parametrize("name", ["API_KEYS", "DATABASE_URL__X", "APIKEYS__ALICE"])
def test_no_error_quotes_a_secret_of_the_environment(name: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environment={f"LEMONADE_{name}": "geheim"})
    assert "geheim" not in raised.value.message


def test_each_key_knows_its_source(file: Path) -> None:
    file.write_text(
        'cache_dir = "/file"\n[server]\nport = 1\nhost = "::1"\n[api_keys]\nalice = "a"\n'
    )
    sourced = load_sourced(
        file=file,
        environment={"LEMONADE_SERVER__HOST": "::", "LEMONADE_API_KEYS__BOB": "b"},
        flags={"server": {"port": 3, "uds": None}},
    )
    assert sourced.settings.server.port == 3
    assert {
        key: sourced.source(key)
        for key in (
            "cache_dir",
            "server.host",
            "server.port",
            "server.uds",
            "api_keys.alice",
            "api_keys.bob",
        )
    } == {
        "cache_dir": str(file),
        "server.host": "LEMONADE_SERVER__HOST",
        "server.port": "command line",
        "server.uds": "default",
        "api_keys.alice": str(file),
        "api_keys.bob": "LEMONADE_API_KEYS__BOB",
    }


def test_flags_are_not_taken_loosely() -> None:
    with pytest.raises(SettingsError, match=r"command line: .*server\.port"):
        load_settings(environment={}, flags={"server": {"port": "80"}})


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(SettingsError, match=f"{file}: .*No such file"):
        load_settings(file=file, environment={})


@pytest.mark.parametrize("content", [b"[server", b"\xff\xfe", b"port = 1\nport = 2"])
def test_a_file_that_is_no_toml_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=str(file)):
        load_settings(file=file, environment={})


def test_a_directory_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=str(tmp_path)):
        load_settings(file=tmp_path, environment={})
