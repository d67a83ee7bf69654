"""What the answer file of a Windows guest is to say, as its operator declares it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Windows' own limits, in UTF-16 code units as it counts them.
MAX_PASSWORD = 127
MAX_SPECIALIZE_COMMAND = 259
MAX_LOGON_COMMAND = 1024
# Commands are numbered from 1 to 500; one number is left for the disk of `local_storage_letter`.
MAX_COMMANDS = 499

# Tab, and what XML 1.0 can hold (https://www.w3.org/TR/xml/#charsets) but line ends: a command is one line.
_LINE = re.compile("[\t\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?")
_TIME_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9 .()+_-]{0,63}")
_PRODUCT_KEY = re.compile(r"([A-Z0-9]{5}(-[A-Z0-9]{5}){4})?")


def utf16_length(text: str) -> int:
    """Length in UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def _locale(value: str) -> str:
    if not _LOCALE.fullmatch(value):
        raise ValueError(f"{value!r} is not a locale such as en-US or zh-Hans-CN")
    return value


def _time_zone(value: str) -> str:
    if not _TIME_ZONE.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a Windows time zone such as 'W. Europe Standard Time' (see: tzutil /l)"
        )
    return value


def _product_key(value: str) -> str:
    if not _PRODUCT_KEY.fullmatch(value):
        raise ValueError("a product key is five groups of five capital letters and digits: XXXXX-XXXXX-...")
    return value


def _command(value: str, longest: int) -> str:
    if not value.strip() or not _LINE.fullmatch(value):
        raise ValueError("a command is one line of text, without control characters")
    if utf16_length(value) > longest:
        raise ValueError(f"a command of {utf16_length(value)} characters: Windows takes at most {longest} here")
    return value


def _specialize_command(value: str) -> str:
    return _command(value, MAX_SPECIALIZE_COMMAND)


def _logon_command(value: str) -> str:
    return _command(value, MAX_LOGON_COMMAND)


class WindowsSpec(BaseModel):
    """`administrator_password_file`: beside the scale set file; `administrator_password_digest` is filled in when
    the password is kept. Only `first_logon_commands` and `local_storage_letter` make somebody log on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    administrator_password_file: Annotated[str, Field(min_length=1)]
    administrator_password_digest: str | None = None
    locale: Annotated[str, AfterValidator(_locale)] = "en-US"
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    product_key: Annotated[str, AfterValidator(_product_key)] = ""
    synchronous_commands: Annotated[
        tuple[Annotated[str, AfterValidator(_specialize_command)], ...], Field(max_length=MAX_COMMANDS)
    ] = ()
    first_logon_commands: Annotated[
        tuple[Annotated[str, AfterValidator(_logon_command)], ...], Field(max_length=MAX_COMMANDS)
    ] = ()
    local_storage_letter: Annotated[str, Field(pattern=r"^[D-Z]?$")] = ""
