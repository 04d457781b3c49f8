"""The CSV contract: bytes of a drop in, accepted and rejected rows out, none lost.

Every physical line after the header that is not blank is one row, so line numbers are exact:
a quoted field may hold commas, but not a line break.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.csv as arrow_csv
from pandera.errors import SchemaError

from stock_assets.csv_text import (
    COLUMNS,
    MAX_PRICE,
    PRICES,
    RAISED,
    RULES,
    TICKER,
    day_of,
    fields_of,
    header_of,
    number_of,
    plain_text,
)
from stock_assets.errors import DropError

KEY = ["ticker", "date"]

_SEPARATOR = b"\x1f"  # cannot stand in a file: control characters are refused
_CONFLICT = "conflicts with another row of the same ticker and date"
_WIDTH = re.compile(r"has \d+ fields where the header has \d+")
_MAX_VOLUME = 2.0**53  # whole numbers from there on are not exact as floating point
_FIRST_YEAR = 1700
_TELLABLE = date(_FIRST_YEAR - 1, 1, 1), date(2262, 1, 1)  # to pandas; rules need no others
_BLOCK = 1 << 20  # bytes that are parsed at once
_MAX_RAW = 4096  # characters of a rejected line that are kept beside its reasons
_SHORTEST = len("A,B,2019-01-01,1,1,1,1,1\n")
_MOST_REJECTED = 1_000_000  # of a kind; a kilobyte zipped can be a million of them


@dataclass(frozen=True)
class Validation:
    """What became of the rows of one drop.

    Attributes:
        accepted: Columns of `COLUMNS`, one row per (ticker, date), ascending.
        rejected: Columns line (1 is the first line of the file), raw (its text), reasons (list).
        collapsed: Rows that repeat an accepted or rejected row exactly.
        rows_read: Rows of the file; accepted + rejected + collapsed.
        extra_columns: Columns of the file that the contract does not know and that were ignored.
    """

    accepted: pd.DataFrame
    rejected: pd.DataFrame
    collapsed: int
    rows_read: int
    extra_columns: tuple[str, ...]

    @property
    def reasons(self) -> Counter[str]:
        """How many rejected rows give each reason; a row may give several."""
        return Counter(reason for reasons in self.rejected["reasons"] for reason in reasons)

    @property
    def broken_rules(self) -> Counter[str]:
        """The same by rules, of which there are few: reasons may tell numbers."""
        rules: Counter[str] = Counter()
        for reason, rows in self.reasons.items():
            rules[_WIDTH.sub("has more or fewer fields than the header", reason)] += rows
        return rules


def price_schema(today: date) -> pa.DataFrameSchema:
    """The row rules; each check's error text is the reason that a rejected row is given."""
    return pa.DataFrameSchema(
        {
            "ticker": pa.Column(
                object,
                _rule(
                    lambda s: _each(s, lambda texts: texts.str.fullmatch(TICKER)),
                    RULES["ticker"],
                ),
            ),
            "sector": pa.Column(object, _rule(lambda s: s != "", RULES["sector"])),
            "date": pa.Column(
                "datetime64[ns]",
                [
                    _rule(lambda s: s.notna(), RULES["date"]),
                    _rule(lambda s: ~(s > pd.Timestamp(today)), "date is in the future"),
                    _rule(lambda s: ~(s.dt.year < _FIRST_YEAR), f"date is before {_FIRST_YEAR}"),
                ],
                nullable=True,
            ),
            **{
                name: pa.Column(
                    float,
                    _rule(lambda s: (s > 0) & (s <= MAX_PRICE), RULES[name]),
                    nullable=True,
                )
                for name in PRICES
            },
            "volume": pa.Column(
                float,
                _rule(
                    lambda s: (s >= 0) & (s < _MAX_VOLUME) & (s == s.round()),
                    RULES["volume"],
                ),
                nullable=True,
            ),
        },
        checks=[
            _rule(
                lambda f: ~(f["low"] > np.fmin(f["open"], f["close"])),
                "low is above open or close",
            ),
            _rule(
                lambda f: ~(f["high"] < np.fmax(f["open"], f["close"])),
                "high is below open or close",
            ),
        ],
        strict=True,
        ordered=True,
    )


def validate_csv(content: bytes, *, today: date, max_bytes: int) -> Validation:
    """Sort the rows of a CSV of daily prices into accepted, rejected and collapsed ones.

    Args:
        content: The file, plain or gzip, UTF-8 with or without BOM, LF or CRLF.
        today: Rows dated later are rejected.
        max_bytes: Largest size of the text; a compressed file is measured unpacked.

    Raises:
        DropError: The file is no such CSV at all, or nearly all of a large one is to be rejected.
    """
    lines = _Lines.split(_with_few_lines(plain_text(content, max_bytes)))
    header, first = header_of(iter(lines))
    rows, malformed = _rows(lines, header, first)
    rows_read = len(rows) + len(malformed)

    reasons = _broken_rules(rows, price_schema(today))
    keys = rows[KEY].drop(index=list(reasons))
    repeats = rows.loc[keys.index[keys.duplicated(keep=False)]]
    collapsed = repeats.index[repeats.duplicated()]
    repeats = repeats.drop(index=collapsed)
    conflicts = repeats.index[repeats.duplicated(KEY, keep=False)]
    if len(conflicts):
        _demand_few(len(conflicts), conflicts[0], _CONFLICT)
    reasons |= {line: [_CONFLICT] for line in conflicts.tolist()}
    rows = rows.drop(index=[*reasons, *collapsed])

    reasons |= malformed
    rejected = pd.DataFrame(
        [(line, lines.raw(line), reasons[line]) for line in sorted(reasons)],
        columns=["line", "raw", "reasons"],
    )
    return Validation(
        accepted=rows.sort_values(KEY, ignore_index=True).astype({"volume": "int64"}),
        rejected=rejected,
        collapsed=len(collapsed),
        rows_read=rows_read,
        extra_columns=tuple(name for name in header if name not in COLUMNS),
    )


def _with_few_lines(text: bytes) -> bytes:
    """The text, if it has not by far more lines than rows can stand in it."""
    lines = text.count(b"\n")
    if lines > len(text) / _SHORTEST + _MOST_REJECTED:
        raise _too_many(f"it has {lines:,} lines in {len(text):,} bytes")
    return text


def _demand_few(rejected: int, line: int, reason: str) -> None:
    if rejected > _MOST_REJECTED:
        raise _too_many(f"line {line:,}, for example: {reason}")


def _too_many(found: str) -> DropError:
    return DropError(
        f"More than {_MOST_REJECTED:,} lines of the file are no rows that can be taken ({found}). "
        "Expected one row per ticker and day: mend the file, or split it, and drop it again."
    )


def _rule(holds: Callable[..., Any], reason: str) -> pa.Check:
    """A vectorised check that also sees missing values, named by its reason."""
    return pa.Check(holds, name=reason, error=reason, ignore_na=False)


@dataclass(frozen=True)
class _Lines:
    """The physical lines of a text; line numbers count from 1."""

    text: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def split(cls, text: bytes) -> "_Lines":
        breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], breaks + 1])
        ends = np.concatenate([breaks, [len(text)]])
        return cls(text, starts, ends)

    def __getitem__(self, line: int) -> bytes:
        return self.text[self.starts[line - 1] : self.ends[line - 1]]

    def __iter__(self) -> Iterator[bytes]:
        return (self[line] for line in range(1, len(self) + 1))

    def __len__(self) -> int:
        return len(self.starts)

    def raw(self, line: int) -> str:
        text = self[line].decode()
        return text if len(text) <= _MAX_RAW else text[:_MAX_RAW] + "…"

    def count(self, character: str) -> npt.NDArray[np.int64]:
        """How often the character stands in each line."""
        found = np.flatnonzero(np.frombuffer(self.text, np.uint8) == ord(character))
        return np.searchsorted(found, self.ends) - np.searchsorted(found, self.starts)


def _rows(
    lines: _Lines, header: list[str], first: int
) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    """The typed rows (index: line), and the reason of each line that is no row of ours."""
    numbers = np.arange(first, len(lines) + 1)
    well_formed = (lines.count(",") == len(header) - 1) & (lines.count('"') == 0)
    malformed: dict[int, list[str]] = {}
    parts, copied = [_row([str(place) for place in range(len(header))])], lines.starts[first - 1]
    keep = well_formed[first - 1 :]
    is_blank = (lines.starts == lines.ends)[first - 1 :]  # the parser passes over these
    for line in numbers[~keep & ~is_blank].tolist():
        parts.append(lines.text[copied : lines.starts[line - 1]].replace(b",", _SEPARATOR))
        copied = lines.ends[line - 1] + 1
        fields = fields_of(lines[line].decode())
        if len(fields) == len(header):
            parts.append(_row(fields))
            keep[line - first] = True
        elif lines[line].strip():
            malformed[line] = [
                f"has {len(fields)} fields where the header has {len(header)}"
                if fields
                else "quotes are not closed"
            ]
            _demand_few(len(malformed), line, malformed[line][0])
    parts.append(lines.text[copied:].replace(b",", _SEPARATOR))
    longest = max(len(parts[0]), int((lines.ends - lines.starts).max()) + 1)
    return _typed(_cells(b"".join(parts), header, longest)).set_index(numbers[keep]), malformed


def _row(fields: list[str]) -> bytes:
    return _SEPARATOR.join(field.encode() for field in fields) + b"\n"


def _cells(body: bytes, header: list[str], longest: int) -> arrow.Table:
    """Our columns as text; the first line of the body numbers them."""
    places = {name: str(header.index(name)) for name in COLUMNS}
    kinds = {name: arrow.string() for name in (*PRICES, "volume")}
    repetitive = arrow.dictionary(arrow.int32(), arrow.string())
    table = arrow_csv.read_csv(
        io.BytesIO(body),
        arrow_csv.ReadOptions(block_size=max(_BLOCK, longest)),
        arrow_csv.ParseOptions(delimiter=_SEPARATOR.decode(), quote_char=False),
        arrow_csv.ConvertOptions(
            check_utf8=False,
            include_columns=list(places.values()),
            column_types={place: kinds.get(name, repetitive) for name, place in places.items()},
        ),
    )
    return table.rename_columns(list(places))


def _typed(cells: arrow.Table) -> pd.DataFrame:
    """Trimmed text, days and numbers; what cannot be read becomes a missing value."""
    texts = cells.select(["ticker", "sector", "date"]).to_pandas()
    return pd.DataFrame(
        {
            "ticker": _each(texts["ticker"], lambda texts: texts.str.strip().str.translate(RAISED)),
            "sector": _each(texts["sector"], lambda texts: texts.str.strip()),
            "date": _each(texts["date"], _days),
            **{name: _numbers(cells[name]) for name in (*PRICES, "volume")},
        }
    )


def _each(column: "pd.Series[Any]", read: Callable[..., "pd.Series[Any]"]) -> "pd.Series[Any]":
    """What is read of each text; a file has few different ones, so each is read once."""
    codes, texts = pd.factorize(column)
    read_once = read(pd.Series(texts, dtype=object)).to_numpy()
    return pd.Series(read_once[codes], index=column.index)


def _days(texts: "pd.Series[str]") -> "pd.Series[pd.Timestamp]":
    first, last = _TELLABLE
    days = [day and max(first, min(day, last)) for day in map(day_of, texts.str.strip())]
    return pd.to_datetime(pd.Series(days, dtype=object))


def _numbers(column: arrow.ChunkedArray) -> npt.NDArray[np.float64]:
    """The numbers, each the one nearest to its text; NaN where there is none."""
    with suppress(arrow.ArrowInvalid):
        exact: npt.NDArray[np.float64] = column.cast(arrow.float64()).to_numpy()
        if not np.isinf(exact).any():  # inf, which is no number, would be among these
            return exact
    return np.array([number_of(text) for text in column.to_pandas()])


def _broken_rules(frame: pd.DataFrame, schema: pa.DataFrameSchema) -> dict[int, list[str]]:
    """The reasons of each line that breaks a rule of the schema, in the order of the alphabet.

    Where it does not hold its checks are asked one by one: what Pandera tells of all of them takes
    kilobytes a row.
    """
    with suppress(SchemaError):
        schema.validate(frame)
        return {}
    rules = [
        (frame[name], rule) for name, column in schema.columns.items() for rule in column.checks
    ]
    rules += [(frame, rule) for rule in schema.checks]
    broken = {str(rule.error): ~rule(rows).check_output.to_numpy(bool) for rows, rule in rules}
    lines = frame.index[np.any([*broken.values()], axis=0)].tolist()
    if lines:
        example = frame.index.get_loc(lines[0])
        _demand_few(
            len(lines), lines[0], next(why for why, rows in broken.items() if rows[example])
        )
    reasons: dict[int, list[str]] = {line: [] for line in lines}
    for reason in sorted(broken):
        for line in frame.index[broken[reason]].tolist():
            reasons[line].append(reason)
    return reasons
