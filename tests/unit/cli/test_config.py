"""`lemonade-serve config`: what is in force, and who said so."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lemonade_serve.cli.config import config_
from lemonade_serve.errors import SettingsError
from lemonade_serve.settings import Settings, load_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "lemonade.toml"
    file.write_text(
        'default_model = "größer \\"so\\" \\\\ 𝄞"\nserver.port = 80\nworker.threads = 2\n'
        'pool.preload = ["a", "b"]\nparameters.stop = ["\\n", "#"]\nserver.keepalive_s = 0.25\n'
    )
    return file


def invoke(*arguments: str, **environment: str) -> Result:
    result = CliRunner().invoke(config_, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result


def test_each_line_has_a_value_and_its_source(file: Path) -> None:
    lines = invoke("--config", str(file), LEMONADE_SERVER__PORT="99").stdout.splitlines()
    words = [line.split() for line in lines]
    assert ["server.port", "=", "99", "#", "LEMONADE_SERVER__PORT"] in words
    assert ["worker.threads", "=", "2", "#", str(file)] in words
    assert ["server.host", "=", '"127.0.0.1"', "#", "default"] in words
    assert ["#", "server.uds", "is", "not", "set", "#", "default"] in words


def test_what_is_printed_is_a_settings_file_that_says_the_same(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    again.write_text(invoke("--config", str(file)).stdout)
    assert load_settings(file=again, environment={}) == load_settings(file=file, environment={})
    again.write_text(invoke().stdout)
    assert load_settings(file=again, environment={}) == Settings()


def test_secrets_are_stars(file: Path) -> None:
    file.write_text('[api_keys]\n"org:a.b" = "geheim"\n')
    secrets = {
        "LEMONADE_DATABASE_URL": "postgresql://me:geheim@db/x",
        "LEMONADE_API_KEYS__BOB": "geheim",
    }
    for flags in ([], ["--json"]):
        printed = invoke("--config", str(file), *flags, **secrets).stdout
        assert "geheim" not in printed
    found = tomllib.loads(invoke("--config", str(file), **secrets).stdout)
    assert found["api_keys"] == {"org:a.b": "***", "bob": "***"}
    assert found["database_url"] == "postgresql://me:***@db/x"


def test_programs_get_json(file: Path) -> None:
    found = json.loads(invoke("--config", str(file), "--json").stdout)
    assert found["pool.preload"] == {"value": ["a", "b"], "source": str(file)}
    assert found["server.uds"] == {"value": None, "source": "default"}


def test_a_typo_is_an_error(file: Path) -> None:
    file.write_text("prot = 1")
    result = CliRunner().invoke(config_, ["--config", str(file)])
    assert isinstance(result.exception, SettingsError)
    assert "did you mean server.port?" in result.exception.message
