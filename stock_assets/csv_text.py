"""The text of a CSV of daily prices and its header, read with the standard library alone."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from string import ascii_lowercase, ascii_uppercase

from stock_assets.errors import DropError

PRICES = ("close", "open", "low", "high")
COLUMNS = ("ticker", "sector", "date", "close", "open", "low", "high", "volume")
LOOK = 1 << 16  # bytes that are enough to know a file by

MAX_PRICE = 1e300  # from there on sums are infinite
TICKER = r"[A-Z0-9][A-Z0-9.\-]{0,14}"
RAISED = str.maketrans(ascii_lowercase, ascii_uppercase)  # str.upper raises other letters to these
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
RULES = {  # of single fields, as a rejected row is told them
    "ticker": "ticker is not 1 to 15 of A-Z, 0-9, dot and dash",
    "sector": "sector is empty",
    "date": "date is not a day written YYYY-MM-DD",
    **{name: f"{name} is not a number above 0" for name in PRICES},
    "volume": "volume is not a whole number of 0 or more",
}

_FIRST_ROWS = 20
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_GZIP = b"\x1f\x8b"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MAX_SHOWN = 200  # characters of a header that is not ours
_CUT = b"..."  # in the place of the lines that are not there yet
_EXPECTED = f"Expected a header with the columns {','.join(COLUMNS)} in any order"


def look(start: bytes) -> list[str]:
    """The columns of a file of which only the first `LOOK` bytes are there yet.

    Raises:
        DropError: It is no CSV of daily prices, as far as its start tells.
    """
    return header_of(_first_lines(start))[0]


def doubts(start: bytes) -> list[str]:
    """What is wrong with the first rows of such a file, if each of them has something wrong.

    Then it will be with most of the others: the columns are mixed up, or written otherwise.
    """
    lines = _first_lines(start)
    names, line = header_of(lines)
    told = []
    for number, text in enumerate(lines[line - 1 :][:_FIRST_ROWS], line):
        if text.strip() and text != _CUT:
            if not (faults := _faults(fields_of(text.decode()), names)):
                return []
            told.append(f"Line {number}: {'; '.join(faults)}")
    return told


def _first_lines(start: bytes) -> list[bytes]:
    is_whole = len(start) < LOOK
    text = _start_of_gzip(start, is_whole=is_whole) if is_gzip(start) else start
    is_whole = is_whole and len(text) <= LOOK
    if not is_whole:  # but of the last line, the start alone is there
        text = text[: text.rfind(b"\n") + 1] or text.decode(errors="ignore").encode()
    lines = plain_text(text, LOOK + 1).split(b"\n")
    return lines if is_whole else [*lines, _CUT]


def _start_of_gzip(start: bytes, *, is_whole: bool) -> bytes:
    """The first bytes unpacked; of a file that is there as a whole, one more than `LOOK` if it can.

    Raises:
        DropError: It is damaged, or said to be whole and cut off.
    """
    text = b""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(start)) as unpacked:
            while len(text) <= LOOK and (more := unpacked.read1(LOOK + 1 - len(text))):
                text += more
    except (EOFError, OSError, zlib.error) as error:
        # What comes after some text is for the validation to judge: the start may end in the midst
        # of the two bytes that a further part begins with.
        if is_whole or not (text or isinstance(error, EOFError)):
            raise _damaged(error) from error
    return text


def _faults(fields: list[str], names: list[str]) -> list[str]:
    if len(fields) != len(names):
        return [f"has {len(fields)} fields where the header has {len(names)}"]
    row = {name: field.strip() for name, field in zip(names, fields, strict=True)}
    holds = {
        "ticker": re.fullmatch(TICKER, row["ticker"].translate(RAISED)),
        "sector": row["sector"],
        "date": day_of(row["date"]),
        **{name: 0 < number_of(row[name]) <= MAX_PRICE for name in PRICES},
        "volume": number_of(row["volume"]) >= 0 and number_of(row["volume"]).is_integer(),
    }
    return [rule for name, rule in RULES.items() if not holds[name]]


def day_of(text: str) -> date | None:
    """The day that is written so, if there is one."""
    with suppress(ValueError):
        return date.fromisoformat(text) if re.fullmatch(DAY, text) else None
    return None


def number_of(text: str) -> float:
    """The number that is written so; nan if there is none.

    pandas.to_numeric ends the process at 1e2147483648.
    """
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def is_gzip(start: bytes) -> bool:
    """Whether a file that starts so is compressed."""
    return start.startswith(_GZIP)


def plain_text(content: bytes, max_bytes: int) -> bytes:
    """The file unpacked, without BOM, each line ended by LF.

    Raises:
        DropError: It is no text, or more than the bytes that are taken.
    """
    if is_gzip(content):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = unpacked.read(max_bytes + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged(error) from error
    if len(content) > max_bytes:
        raise DropError(
            f"The file has more than {max_bytes:,} bytes of text, the most that is taken "
            "(STOCK_ASSETS_MAX_DROP_BYTES): split it, a drop may hold any part of a history."
        )
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if control := _CONTROL.search(content):
        line = content.count(b"\n", 0, control.start()) + 1
        raise DropError(
            f"The file is not text: line {line} holds the byte 0x{control.group()[0]:02x}. "
            "Expected a CSV in UTF-8, plain or gzip."
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DropError(
            f"Line {line} is not UTF-8 (byte 0x{content[error.start]:02x}): save the file as UTF-8."
        ) from error
    return content


def header_of(lines: Iterable[bytes]) -> tuple[list[str], int]:
    """The column names in lower case, and the number of the first line after them.

    Raises:
        DropError: It is too long, a column is missing or named twice, or no row follows.
    """
    numbered = enumerate(lines, 1)
    line, header = next(((n, text) for n, text in numbered if text.strip()), (0, b""))
    if not line:
        raise DropError(f"The file is empty. {_EXPECTED}, then one row per ticker and day.")
    if len(header) > LOOK:
        raise DropError(
            f"The header in line {line} has {len(header):,} bytes, more than {LOOK:,}. {_EXPECTED}."
        )
    found = header.decode()
    names = [name.strip().lower() for name in fields_of(found)]
    missing = [name for name in COLUMNS if name not in names]
    shown = found if len(found) <= _MAX_SHOWN else found[:_MAX_SHOWN] + "…"
    if missing:
        lacking = "no header" if len(missing) == len(COLUMNS) else f"no column {', '.join(missing)}"
        raise DropError(f"The file has {lacking}: line {line} is {shown!r}. {_EXPECTED}.")
    twice = sorted(name for name in COLUMNS if names.count(name) > 1)
    if twice:
        raise DropError(f"The header names {', '.join(twice)} twice: {shown!r}. {_EXPECTED}.")
    if not any(text.strip() for _, text in numbered):
        raise DropError(
            f"The file is empty after its header in line {line}. "
            "Expected one row per ticker and day."
        )
    return names, line + 1


def fields_of(line: str) -> list[str]:
    """The fields of one line; none where a quote is not closed, or closed within a field."""
    csv.field_size_limit(max(csv.field_size_limit(), len(line)))
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _damaged(error: Exception) -> DropError:
    return DropError(f"The gzip file is damaged or cut off ({error}): compress and drop it again.")
