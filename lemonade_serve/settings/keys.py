"""API keys, from the settings and from a file of their own. No message quotes a key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings.schema import CLIENT_NAME, Settings

_SENDABLE = re.compile(r"[\x21-\x7e]+")
"""In an `Authorization` header."""


def read_api_keys(settings: Settings) -> Mapping[str, str]:
    """The key of each client, by the client's name.

    Raises SettingsError for a file that cannot be read or is not made of lines `name = "key"`, a
    name that is none or is given twice, a key that is empty or could not be sent, and a key that
    two clients share.
    """
    keys = dict(settings.api_keys)
    if file := settings.api_keys_path:
        from_file = _read(file)
        if twice := sorted(keys.keys() & from_file):
            raise SettingsError(f"api_keys: {', '.join(twice)} is in {file} too; keep one of them")
        keys |= from_file
    _check(keys)
    return keys


def _read(file: Path) -> dict[str, str]:
    try:
        lines = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"api_keys_file: {file}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f'api_keys_file: {file}: {error}; it takes lines of name = "key", each name once'
        ) from error
    for number, (name, key) in enumerate(lines.items(), 1):
        # a name that is none may be a key, of somebody who wrote the line the wrong way round
        if not re.fullmatch(CLIENT_NAME, name):
            raise SettingsError(
                f"api_keys_file: {file}: entry {number} does not begin with a client's name "
                "(1 to 64 of letters, digits and . _ : -)"
            )
        if not isinstance(key, str):
            raise SettingsError(
                f"api_keys_file: {file}: the key of {name} is no string; "
                "a name with a dot or a colon in it goes in quotes"
            )
    return lines


def _check(keys: Mapping[str, str]) -> None:
    owners: dict[str, str] = {}
    for name, key in keys.items():
        if not key:
            raise SettingsError(f"api_keys: the key of {name} is empty")
        if not _SENDABLE.fullmatch(key):
            raise SettingsError(
                f"api_keys: the key of {name} has a character in it that cannot be sent: "
                "printable ASCII only, without blanks and line ends"
            )
        if other := owners.get(key):
            raise SettingsError(f"api_keys: {other} and {name} have the same key")
        owners[key] = name
