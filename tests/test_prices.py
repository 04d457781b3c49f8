"""The CSV contract: what becomes of every row, and which files are refused as a whole."""

import csv
import gzip
import io
import math
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stock_assets.csv_text import COLUMNS
from stock_assets.errors import DropError
from stock_assets.prices import Validation, validate_csv
from tests.conftest import as_csv, make_prices

TODAY = date(2019, 6, 28)
HEADER = ",".join(COLUMNS)
GOOD = {
    "ticker": "AAPL",
    "sector": "Technology",
    "date": "2019-06-27",
    "close": "180.45",
    "open": "179.5",
    "low": "178.25",
    "high": "181.75",
    "volume": "20899700",
}

TICKER = "ticker is not 1 to 15 of A-Z, 0-9, dot and dash"
SECTOR = "sector is empty"
DAY = "date is not a day written YYYY-MM-DD"
FUTURE = "date is in the future"
EARLY = "date is before 1700"
CLOSE, OPEN, LOW, HIGH = (
    f"{name} is not a number above 0" for name in ("close", "open", "low", "high")
)
LOW_ABOVE = "low is above open or close"
HIGH_BELOW = "high is below open or close"
VOLUME = "volume is not a whole number of 0 or more"
CONFLICT = "conflicts with another row of the same ticker and date"
QUOTES = "quotes are not closed"


def row(**cells: str) -> str:
    return ",".join((GOOD | cells).values())


def validate(content: str | bytes, *, max_bytes: int = 1 << 20) -> Validation:
    content = content.encode() if isinstance(content, str) else content
    return validate_csv(content, today=TODAY, max_bytes=max_bytes)


def validate_rows(*rows: str) -> Validation:
    return validate("\n".join([HEADER, *rows]))


def rejected(validation: Validation) -> list[tuple[int, str, list[str]]]:
    return list(validation.rejected.itertuples(index=False, name=None))


def refusal(content: str | bytes, *, max_bytes: int = 1 << 20) -> str:
    with pytest.raises(DropError) as refused:
        validate(content, max_bytes=max_bytes)
    return str(refused.value)


# Rules of a row


@pytest.mark.parametrize(
    ("cells", "reasons"),
    [
        ({"ticker": ""}, [TICKER]),
        ({"ticker": "   "}, [TICKER]),
        ({"ticker": "A" * 16}, [TICKER]),
        ({"ticker": ".A"}, [TICKER]),
        ({"ticker": "-A"}, [TICKER]),
        ({"ticker": "A B"}, [TICKER]),
        ({"ticker": "A/B"}, [TICKER]),
        ({"ticker": "../A"}, [TICKER]),
        ({"ticker": "Ä"}, [TICKER]),
        ({"ticker": "A\u200b"}, [TICKER]),
        ({"sector": ""}, [SECTOR]),
        ({"sector": " \t "}, [SECTOR]),
        ({"date": ""}, [DAY]),
        ({"date": "2019-02-29"}, [DAY]),
        ({"date": "2019-13-01"}, [DAY]),
        ({"date": "20190627"}, [DAY]),
        ({"date": "27/06/2019"}, [DAY]),
        ({"date": "2019/06/27"}, [DAY]),
        ({"date": "2019-6-27"}, [DAY]),
        ({"date": "2019-06-27T00:00:00"}, [DAY]),
        ({"date": "2019-06- 7"}, [DAY]),
        ({"date": "\uff12\uff10\uff11\uff19-06-27"}, [DAY]),
        ({"date": "NaT"}, [DAY]),
        ({"date": "today"}, [DAY]),
        ({"date": "2019-06-29"}, [FUTURE]),
        ({"date": "2199-01-01"}, [FUTURE]),
        ({"close": ""}, [CLOSE]),
        ({"close": "abc"}, [CLOSE]),
        ({"close": "nan"}, [CLOSE]),
        ({"close": "1_80"}, [CLOSE]),
        ({"close": "0xb4"}, [CLOSE]),
        ({"close": '"180,45"'}, [CLOSE]),
        ({"close": "$180.45"}, [CLOSE]),
        ({"close": "True"}, [CLOSE]),
        ({"close": "0"}, [CLOSE, LOW_ABOVE]),
        ({"close": "-180.45"}, [CLOSE, LOW_ABOVE]),
        ({"close": "inf"}, [CLOSE]),
        ({"close": "1e400"}, [CLOSE, HIGH_BELOW]),
        ({"close": "1e301", "high": "1e301"}, [CLOSE, HIGH]),
        ({"date": "1699-12-31"}, [EARLY]),
        ({"open": "x"}, [OPEN]),
        ({"open": "0"}, [LOW_ABOVE, OPEN]),
        ({"low": "x"}, [LOW]),
        ({"low": "-1"}, [LOW]),
        ({"low": "-inf"}, [LOW]),
        ({"high": "x"}, [HIGH]),
        ({"high": "inf"}, [HIGH]),
        ({"low": "179.51"}, [LOW_ABOVE]),
        ({"close": "179", "low": "179.01"}, [LOW_ABOVE]),
        ({"high": "180.44"}, [HIGH_BELOW]),
        ({"open": "181.76"}, [HIGH_BELOW]),
        ({"volume": ""}, [VOLUME]),
        ({"volume": "x"}, [VOLUME]),
        ({"volume": "-1"}, [VOLUME]),
        ({"volume": "1.5"}, [VOLUME]),
        ({"volume": "nan"}, [VOLUME]),
        ({"volume": "inf"}, [VOLUME]),
        ({"volume": "True"}, [VOLUME]),
        ({"volume": str(2**53)}, [VOLUME]),
        ({"volume": str(2**53 + 1)}, [VOLUME]),  # not exact as floating point
        ({"volume": "9223372036854775808"}, [VOLUME]),
        ({"low": "190", "high": "170"}, [HIGH_BELOW, LOW_ABOVE]),
        (
            {"ticker": "?", "sector": "", "date": "?", "close": "?", "volume": "?"},
            [CLOSE, DAY, SECTOR, TICKER, VOLUME],
        ),
        (dict.fromkeys(GOOD, ""), [CLOSE, DAY, HIGH, LOW, OPEN, SECTOR, TICKER, VOLUME]),
    ],
)
def test_a_defect_is_rejected_with_every_reason(cells: dict[str, str], reasons: list[str]) -> None:
    other = row(date="2019-06-26")
    validation = validate_rows(other, row(**cells))
    assert rejected(validation) == [(3, row(**cells), reasons)]
    assert validation.accepted["date"].tolist() == [pd.Timestamp("2019-06-26")]


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {"ticker": "A" * 15},
        {"ticker": "3M.B-C"},
        {"date": "2019-06-28"},
        {"date": "2016-02-29"},
        {"date": "1980-12-12"},
        {"date": "1700-01-01"},
        {"low": "179.5"},
        {"high": "180.45"},
        dict.fromkeys(("close", "open", "low", "high"), "1e-9"),
        dict.fromkeys(("close", "open", "low", "high"), "1e300"),
        {"close": " 180.45 "},
        {"close": "+180.45"},
        {"close": "1.8045e2"},
        {"volume": "0"},
        {"volume": "2e6"},
        {"volume": "20899700.0"},
        {"volume": str(2**53 - 1)},
    ],
)
def test_the_edges_of_the_rules_are_accepted(cells: dict[str, str]) -> None:
    validation = validate_rows(row(**cells))
    assert (len(validation.accepted), len(validation.rejected)) == (1, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("AAPL", "has 1 fields where the header has 8"),
        (row().rpartition(",")[0], "has 7 fields where the header has 8"),
        (row() + ",", "has 9 fields where the header has 8"),
        (row(sector="Technology, Hardware"), "has 9 fields where the header has 8"),
        (row(sector='"Technology'), QUOTES),
        (row(volume='"1'), QUOTES),
        ('"', QUOTES),
    ],
)
def test_a_line_that_is_no_row_is_rejected(line: str, reason: str) -> None:
    validation = validate_rows(line, row())
    assert rejected(validation) == [(2, line, [reason])]
    assert len(validation.accepted) == 1


def test_a_file_without_one_sound_row_is_all_rejected() -> None:
    validation = validate_rows("a", "b,c")
    assert [line for line, _, _ in rejected(validation)] == [2, 3]
    assert validation.accepted.columns.tolist() == list(COLUMNS)
    assert validation.accepted.empty


def test_reasons_are_counted_over_all_rows() -> None:
    validation = validate_rows(row(close="x", sector=""), row(close="y"))
    assert validation.reasons == Counter({CLOSE: 2, SECTOR: 1})


# What is read


@pytest.mark.parametrize("number", ["180.45", "0.1", "1e-7", "123456.789", "179.123456"])
def test_numbers_are_read_exactly(number: str) -> None:
    names = ("close", "open", "low", "high")
    validation = validate_rows(row(**dict.fromkeys(names, number)), row(ticker="B", close="x"))
    assert validation.accepted[list(names)].iloc[0].tolist() == [float(number)] * 4


def long_numbers() -> tuple[list[float], list[str]]:
    """Closes of up to 17 digits, and a row with each."""
    numbers: list[float] = np.random.default_rng(0).uniform(10, 1000, 200).tolist()
    cells = {"open": "500", "low": "1", "high": "1000"}
    return numbers, [row(ticker=f"A{n:03}", close=repr(x), **cells) for n, x in enumerate(numbers)]


@pytest.mark.parametrize("beside", [{}, {"close": "x"}, {"close": ""}])
def test_long_numbers_are_read_exactly(beside: dict[str, str]) -> None:
    numbers, lines = long_numbers()
    accepted = validate_rows(*lines, row(ticker="Z", **beside)).accepted
    assert accepted["close"].tolist()[: len(numbers)] == numbers


@pytest.mark.parametrize("written", ["aapl", " AAPL ", "\tAapl", '" aapl "'])
def test_tickers_are_trimmed_and_upper_cased(written: str) -> None:
    assert validate_rows(row(ticker=written)).accepted["ticker"].tolist() == ["AAPL"]


@pytest.mark.parametrize("ticker", ["NA", "NULL", "NAN", "TRUE", "1E5", "0", "007", "1.0", "NONE"])
def test_tickers_stay_what_they_are(ticker: str) -> None:
    assert validate_rows(row(ticker=ticker)).accepted["ticker"].tolist() == [ticker]


@pytest.mark.parametrize("sector", ["NA", "null", "1", "True"])
def test_sectors_stay_what_they_are(sector: str) -> None:
    assert validate_rows(row(sector=sector)).accepted["sector"].tolist() == [sector]


def test_a_quoted_field_may_hold_commas_and_quotes() -> None:
    validation = validate_rows(row(sector='"Oil, ""Gas"" & Coal"'))
    assert validation.accepted["sector"].tolist() == ['Oil, "Gas" & Coal']


def test_accepted_columns_have_their_types() -> None:
    for validation in (validate_rows(row()), validate_rows(row(close="x"))):
        assert {name: str(kind) for name, kind in validation.accepted.dtypes.items()} == {
            "ticker": "object",
            "sector": "object",
            "date": "datetime64[ns]",
            **dict.fromkeys(("close", "open", "low", "high"), "float64"),
            "volume": "int64",
        }


def test_accepted_rows_ascend_by_ticker_and_date() -> None:
    keys = [("B", "2019-06-26"), ("A", "2019-06-27"), ("B", "2019-06-25"), ("A", "2019-06-26")]
    accepted = validate_rows(*(row(ticker=name, date=day) for name, day in keys)).accepted
    found = zip(accepted["ticker"], accepted["date"].dt.strftime("%Y-%m-%d"), strict=True)
    assert list(found) == sorted(keys)
    assert accepted.index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("names", [list(reversed(COLUMNS)), sorted(COLUMNS)])
def test_columns_may_stand_in_any_order(names: list[str]) -> None:
    content = ",".join(names) + "\n" + ",".join(GOOD[name] for name in names)
    pd.testing.assert_frame_equal(validate(content).accepted, validate_rows(row()).accepted)


@pytest.mark.parametrize(
    "header",
    [HEADER.upper(), HEADER.replace(",", " , "), ",".join(f'"{name.title()}"' for name in COLUMNS)],
)
def test_header_case_spaces_and_quotes_do_not_matter(header: str) -> None:
    assert len(validate(f"{header}\n{row()}").accepted) == 1


def test_extra_columns_are_named_and_ignored() -> None:
    validation = validate(f"Note,{HEADER},Adj Close\nx,{row()},1\n{row()}")
    assert validation.extra_columns == ("note", "adj close")
    assert validation.accepted.columns.tolist() == list(COLUMNS)
    assert rejected(validation) == [(3, row(), ["has 8 fields where the header has 10"])]


def test_a_header_may_be_long() -> None:
    extra = "".join(f",extra_column_{n}" for n in range(400))
    validation = validate(f"{HEADER}{extra}\n{row()}{',x' * 400}")
    assert (len(validation.accepted), len(validation.extra_columns)) == (1, 400)


def test_an_extra_column_may_come_twice() -> None:
    validation = validate(f"x,{HEADER},x\n1,{row()},2")
    assert validation.accepted["close"].tolist() == [180.45]


# Lines


@pytest.mark.parametrize("encode", [str.encode, lambda text: gzip.compress(text.encode())])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_numbers_and_raw_text_are_exact(
    end: str, bom: str, encode: Callable[[str], bytes]
) -> None:
    odd = row(sector='"Oil, Gas"', close="x")
    lines = ["", HEADER, "", row(), " ", odd, "\t", "Ä,…", "", row(ticker="é"), ""]
    validation = validate(encode(bom + end.join(lines)))
    assert validation.rows_read == 4
    assert [(line, raw) for line, raw, _ in rejected(validation)] == [
        (6, odd),
        (8, "Ä,…"),
        (10, row(ticker="é")),
    ]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\xa0"])
def test_only_line_feed_and_carriage_return_end_a_line(character: str) -> None:
    lines = [row(sector=f"a{character}b"), character, row(close="x")]
    validation = validate_rows(*lines)
    assert validation.accepted["sector"].tolist() == [f"a{character}b"]
    assert [(line, raw) for line, raw, _ in rejected(validation)] == [(3, lines[1]), (4, lines[2])]


def test_an_unclosed_quote_does_not_swallow_the_next_lines() -> None:
    lines = [row(sector='"open'), row(), row(ticker="B", sector='end"')]
    validation = validate_rows(*lines)
    assert [line for line, _, _ in rejected(validation)] == [2]
    assert validation.accepted["ticker"].tolist() == ["AAPL", "B"]


def test_of_a_long_line_the_start_is_kept() -> None:
    line = row(sector="x" * 10_000, close="?")
    ((number, raw, reasons),) = rejected(validate_rows(line))
    assert (number, raw, reasons) == (2, line[:4096] + "…", [CLOSE])


@pytest.mark.parametrize("length", [200_000, 3_000_000])
def test_a_quoted_field_may_be_long(length: int) -> None:
    sector = "x" * length
    quoted = f'"{sector}"'
    content = f"{HEADER}\n{row(sector=quoted)}"
    validation = validate(content, max_bytes=len(content))
    assert validation.accepted["sector"].tolist() == [sector]


def test_a_byte_order_mark_after_the_first_line_is_text() -> None:
    validation = validate_rows("\ufeff" + row())
    assert rejected(validation) == [(2, "\ufeff" + row(), [TICKER])]


def test_the_size_of_what_is_parsed_at_once_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    days = [row(ticker=f"T{n % 7}", date=f"2019-05-{n % 28 + 1:02}") for n in range(90)]
    lines = [*days, row(close="x"), "a,b", "", row(sector='"Oil, Gas"'), *days]
    at_once = validate_rows(*lines)
    monkeypatch.setattr("stock_assets.prices._BLOCK", 1)
    in_parts = validate_rows(*lines)
    pd.testing.assert_frame_equal(in_parts.accepted, at_once.accepted)
    assert rejected(in_parts) == rejected(at_once)
    assert (len(at_once.accepted), at_once.collapsed) == (29, 152)


# Repeats


def test_exact_repeats_collapse() -> None:
    validation = validate_rows(row(), row(ticker=" aapl", close="180.450"), "", row())
    assert (len(validation.accepted), validation.collapsed, validation.rows_read) == (1, 2, 3)


@pytest.mark.parametrize("order", ["AB", "BA", "AAB", "ABA", "ABAB", "ABC"])
def test_of_conflicting_repeats_none_is_taken(order: str) -> None:
    closes = {"A": "180.45", "B": "180.46", "C": "180.47"}
    validation = validate_rows(*(row(close=closes[name]) for name in order))
    first = sorted(2 + order.index(name) for name in set(order))
    assert validation.accepted.empty
    assert [(line, why) for line, _, why in rejected(validation)] == [
        (n, [CONFLICT]) for n in first
    ]
    assert validation.collapsed == len(order) - len(first)


@pytest.mark.parametrize("cell", [{"sector": "Energy"}, {"volume": "1"}, {"high": "190"}])
def test_a_difference_in_any_column_is_a_conflict(cell: dict[str, str]) -> None:
    assert validate_rows(row(), row(**cell)).reasons == Counter({CONFLICT: 2})


def test_an_invalid_row_never_knocks_out_a_valid_one() -> None:
    validation = validate_rows(row(close="x"), row(), row(low="190"))
    assert len(validation.accepted) == 1
    assert [line for line, _, _ in rejected(validation)] == [2, 4]


def test_repeats_of_an_invalid_row_are_each_rejected() -> None:
    assert len(validate_rows(row(close="x"), row(close="x")).rejected) == 2


# Files that are refused


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty", "Expected a header", HEADER]),
        (b"\n \r\n\n", ["is empty", HEADER]),
        (b"\xef\xbb\xbf", ["is empty", HEADER]),
        (HEADER, ["empty after its header in line 1", "Expected one row"]),
        (f"\n{HEADER}\n \n\n", ["empty after its header in line 2", "Expected one row"]),
        (row(), ["no header", "line 1", repr(row()), HEADER]),
        (f"daily prices\n{HEADER}\n{row()}", ["no header", "line 1 is 'daily prices'", HEADER]),
        (
            f"{HEADER}\n{row()}".replace(",", ";"),
            ["no header", repr(HEADER.replace(",", ";")), HEADER],
        ),
        (f"{HEADER}\n{row()}".replace(",", "\t"), ["no header", HEADER]),
        (
            f"{HEADER}\n{row()}".replace("volume", "vol").replace("open", "opening"),
            ["no column open, volume", "ticker,sector,date,close,opening,low,high,vol", HEADER],
        ),
        (f"{HEADER},Close\n{row()},1", ["names close twice", f"{HEADER},Close", HEADER]),
        (f'"{HEADER}\n{row()}', ["no header", HEADER]),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["not text", "0x1a", "Expected a CSV in UTF-8"]),
        (f"{HEADER}\n{row()}\n\0", ["not text", "line 3", "0x00", "Expected a CSV in UTF-8"]),
        (f"{HEADER}\n{row()}".encode("utf-16"), ["not text", "line 1", "0x00"]),
        (
            f"{HEADER}\n{row()}\n{row(sector='Énergie')}".encode("latin-1"),
            ["Line 3 is not UTF-8", "0xc9", "save the file as UTF-8"],
        ),
        (f"{HEADER}\r{row()}\r\xc9".encode("latin-1"), ["Line 3 is not UTF-8"]),
        (f"{HEADER}\r{row()}\r\n\r\0".encode(), ["line 4", "0x00"]),
        (b"PK\x03\x04", ["not text", "0x03"]),
        (b"\x1f\x8b", ["damaged or cut off", "drop it again"]),
        (b"\x1f\x8bnot gzip at all", ["damaged or cut off", "drop it again"]),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(content: str | bytes, parts: list[str]) -> None:
    message = refusal(content)
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_gzip_is_refused(kept: float) -> None:
    packed = gzip.compress(as_csv(make_prices()))
    assert "damaged or cut off" in refusal(packed[: int(len(packed) * kept)])


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_gzip_is_refused(place: float) -> None:
    packed = bytearray(gzip.compress(as_csv(make_prices())))
    packed[int(len(packed) * place)] ^= 0xFF
    assert "damaged or cut off" in refusal(bytes(packed))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_over_the_limit_is_refused(pack: Callable[[bytes], bytes]) -> None:
    content = as_csv(make_prices())
    assert len(validate(pack(content), max_bytes=len(content)).accepted) == 120
    message = refusal(pack(content), max_bytes=len(content) - 1)
    assert f"more than {len(content) - 1:,} bytes" in message
    assert "split it" in message


def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"a" * (64 << 20), compresslevel=1)
    tracemalloc.start()
    message = refusal(bomb, max_bytes=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "more than 1,048,576 bytes" in message
    assert peak < 8 << 20


def test_a_long_first_line_is_shown_shortened() -> None:
    message = refusal("x" * 5_000)
    assert "x" * 200 + "…" in message
    assert len(message) < 500


# Any file at all


@dataclass
class Expected:
    """What the contract says of a file's lines, worked out line by line."""

    accepted: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    collapsed: int = 0


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def _number(cell: str) -> float:
    return float(cell) if _NUMBER.fullmatch(cell) else math.nan


def sound(line: str) -> tuple[Any, ...] | None:
    """The values of a line that keeps every rule, else None."""
    try:
        ((ticker, sector, day, *numbers),) = csv.reader([line], strict=True)
        close, opened, low, high, volume = map(_number, numbers)
        day = day.strip()
        known = re.fullmatch(r"\d{4}-\d\d-\d\d", day) is not None
        kept = (
            re.fullmatch(r"[A-Z0-9][A-Z0-9.\-]{0,14}", ticker.strip().upper())
            and sector.strip()
            and known
            and date.fromisoformat(day) <= TODAY
            and all(0 < price < math.inf for price in (close, opened, low, high))
            and low <= min(opened, close)
            and high >= max(opened, close)
            and 0 <= volume < 2**53
            and volume == round(volume)
        )
    except (ValueError, csv.Error):
        return None
    values = (ticker.strip().upper(), day, sector.strip(), close, opened, low, high, volume)
    return values if kept else None


def expect(lines: list[str]) -> Expected:
    found = {n: sound(line) for n, line in enumerate(lines, 2) if line.strip(" \t")}
    told: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for good in filter(None, found.values()):
        told.setdefault(good[:2], set()).add(good)
    expected, seen = Expected(), set()
    for n, values in found.items():
        if values is None:
            expected.rejected.append(n)
        elif values in seen:
            expected.collapsed += 1
        else:
            seen.add(values)
            if len(told[values[:2]]) == 1:
                expected.accepted.append(values)
            else:
                expected.rejected.append(n)
    expected.accepted.sort()
    return expected


def summary(validation: Validation) -> Expected:
    days = validation.accepted.assign(date=validation.accepted["date"].dt.strftime("%Y-%m-%d"))
    columns = ["ticker", "date", "sector", "close", "open", "low", "high", "volume"]
    return Expected(
        accepted=list(days[columns].itertuples(index=False, name=None)),
        rejected=validation.rejected["line"].tolist(),
        collapsed=validation.collapsed,
    )


CENTS = st.integers(1, 50_000).map(lambda cents: f"{cents / 100:.2f}")
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\t\x85"))
NUMBERS = ["nan", "inf", "-1", "0", "-0", "1e400", "1e-300", "9" * 40, "True", "0x1F", "1_0", "1.5"]
DAYS = ["2019-02-30", "2019-06-29", "20190627", "1999-1-1", "2019-06-27T00:00:00"]
QUOTED = ['"', '""', '"a', 'a"', '"a,b"', '"1,5"', '"2019-06-27"', "'A'"]
OTHER = ["", " ", "a,b", "NULL", "\uff21", "١٢", "\ufeff", "\u2028", "=1+1", "#", "\\", "\\n"]
JUNK = TEXT | st.sampled_from([*NUMBERS, *DAYS, *QUOTED, *OTHER])


@st.composite
def good_lines(draw: st.DrawFn) -> str:
    low, first, second, high = sorted(draw(CENTS) for _ in range(4))
    if float(low) > float(first) or float(second) > float(high) or float(first) > float(second):
        low = high = first = second  # sorted as text
    cells = [
        draw(st.sampled_from(["NA", "BRK.B", "na", " TRUE", "1E5 "])),
        draw(st.sampled_from(["Energy", " Energy", '"Oil, Gas"', '"Oil ""n"" Gas"', "Ä"])),
        draw(st.sampled_from(["2019-06-27", "2019-06-28 ", "2016-02-29"])),
        *draw(st.permutations([first, second])),
        low,
        high,
        draw(st.sampled_from(["0", "5", "5.0", "7e3", "20899700"])),
    ]
    return ",".join(cells)


@st.composite
def bad_lines(draw: st.DrawFn) -> str:
    cells = draw(good_lines()).split(",")
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(cells) - 1))
        if draw(st.booleans()):
            cells[place] = draw(JUNK)
        elif draw(st.booleans()):
            cells.insert(place, draw(JUNK))
        elif len(cells) > 1:
            del cells[place]
    return ",".join(cells)


@st.composite
def dirty_lines(draw: st.DrawFn) -> list[str]:
    blank = st.sampled_from(["", " ", "\t "])
    lines = draw(st.lists(good_lines() | bad_lines() | TEXT | blank, max_size=15))
    repeated = draw(st.lists(st.sampled_from(lines), max_size=5)) if lines else []
    return draw(st.permutations([*lines, *repeated]))


@given(
    lines=dirty_lines(),
    end=st.sampled_from(["\n", "\r\n"]),
    closed=st.booleans(),
    bom=st.booleans(),
    packed=st.booleans(),
)
@example(lines=['"'], end="\n", closed=True, bom=False, packed=False)
@settings(deadline=None, max_examples=100)
def test_every_row_of_any_file_is_accounted_for(
    *, lines: list[str], end: str, closed: bool, bom: bool, packed: bool
) -> None:
    text = ("\ufeff" if bom else "") + end.join([HEADER, *lines]) + (end if closed else "")
    content = gzip.compress(text.encode()) if packed else text.encode()
    if not any(line.strip(" \t") for line in lines):
        assert "empty after its header" in refusal(content)
        return
    validation = validate(content)
    assert summary(validation) == expect(lines)
    assert validation.rows_read == sum(bool(line.strip(" \t")) for line in lines)
    assert validation.rows_read == (
        len(validation.accepted) + len(validation.rejected) + validation.collapsed
    )
    assert validation.rejected["line"].is_unique
    assert not validation.accepted.duplicated(["ticker", "date"]).any()
    for line, raw, reasons in rejected(validation):
        assert raw == lines[line - 2]
        assert reasons


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_the_order_of_the_rows_does_not_change_what_is_accepted(data: st.DataObject) -> None:
    lines = ["x", *data.draw(dirty_lines())]
    shuffled = data.draw(st.permutations(lines))
    one, other = validate_rows(*lines), validate_rows(*shuffled)
    pd.testing.assert_frame_equal(one.accepted, other.accepted)
    assert one.reasons == other.reasons
    assert one.collapsed == other.collapsed


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\x1f\x8b\x08" + tail))
@settings(deadline=None, max_examples=100)
def test_bytes_that_are_no_csv_raise_nothing_but_a_refusal(content: bytes) -> None:
    assert refusal(content)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_bytes_after_a_header_are_refused_or_rejected(content: bytes) -> None:
    try:
        validation = validate(HEADER.encode() + b"\n" + content)
    except DropError:
        return
    assert validation.accepted.empty


def test_of_the_real_prices_one_row_is_rejected(shared_prices: Path) -> None:
    validation = validate(shared_prices.read_bytes(), max_bytes=1 << 30)
    assert (validation.rows_read, len(validation.accepted)) == (558_575, 558_574)
    assert validation.collapsed == 0
    assert rejected(validation) == [
        (
            165_055,
            "DXC,Information Technology,2018-06-01,79.68,80.83,80.05,83.4,3920700",
            [LOW_ABOVE],
        )
    ]
    assert (validation.accepted["volume"] == 0).sum() == 934
    with gzip.open(shared_prices) as file:
        lines = np.array(file.read().decode().split("\n"))
    for line in (2, 300_000):
        cells = next(csv.reader(io.StringIO(str(lines[line - 1]))))
        of_ticker = validation.accepted[validation.accepted["ticker"] == cells[0]]
        of_day = of_ticker[of_ticker["date"] == pd.Timestamp(cells[2])]
        assert of_day["close"].tolist() == [float(cells[3])]
