"""What is sent with traces, from the settings and from a file of its own. No message quotes a
value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lemonade_serve.errors import SettingsError
from lemonade_serve.settings.schema import Header, HeaderName, Tracing


def read_headers(tracing: Tracing) -> Mapping[str, str]:
    """The headers, by name.

    Raises SettingsError for a file that cannot be read or is not made of lines `name = "value"`,
    and for a name that is given twice.
    """
    if tracing.headers_file is None:
        return tracing.headers
    file = Path(tracing.headers_file).expanduser()
    from_file = _read(file)
    if twice := sorted({name.lower() for name in from_file} & {n.lower() for n in tracing.headers}):
        raise SettingsError(f"tracing.headers: {', '.join(twice)} is in {file} too; keep one")
    return {**tracing.headers, **from_file}


def _read(file: Path) -> dict[str, str]:
    try:
        lines = tomllib.loads(file.read_text("utf-8"))
        return msgspec.convert(lines, dict[HeaderName, Header])
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"tracing.headers_file: {file}: {error}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(
            f'tracing.headers_file: {file} takes lines of name = "value", each name once, of '
            "printable ASCII"
        ) from error
