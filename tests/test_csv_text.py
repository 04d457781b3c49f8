"""The start of a file tells what it is, before all of it has come."""

import gzip

import pytest

from stock_assets.csv_text import COLUMNS, LOOK, RULES, doubts, look
from stock_assets.errors import DropError
from tests.conftest import as_csv, make_prices

HEADER = ",".join(COLUMNS).encode()
GOOD = b"AAPL,Technology,2023-01-03,125.07,130.28,124.17,130.90,112117500"
LARGE = as_csv(make_prices("AAPL", 3_000))


def csv(*rows: bytes) -> bytes:
    return b"\n".join([HEADER, *rows, b""])


@pytest.mark.parametrize("start", [csv(GOOD), csv(GOOD)[:-1], LARGE[:LOOK]])
def test_columns_are_told_of_a_whole_file_and_of_a_start(start: bytes) -> None:
    assert look(start) == list(COLUMNS)
    assert look(gzip.compress(start)) == list(COLUMNS)
    assert doubts(start) == doubts(gzip.compress(start)) == []


def test_of_a_gzip_file_the_start_is_enough() -> None:
    packed = gzip.compress(LARGE * 40, compresslevel=1)
    assert len(packed) > LOOK
    assert look(packed[:LOOK]) == list(COLUMNS)
    assert doubts(packed[:LOOK]) == []


def test_a_gzip_file_of_several_parts_is_one_file() -> None:
    parts = gzip.compress(HEADER + b"\n") + gzip.compress(GOOD)
    assert look(parts) == list(COLUMNS)
    assert doubts(parts) == []


@pytest.mark.parametrize("left_out", [1, 8, 40])
def test_a_gzip_file_that_is_cut_off_is_damaged(left_out: int) -> None:
    with pytest.raises(DropError, match="damaged or cut off"):
        look(gzip.compress(csv(GOOD))[:-left_out])


@pytest.mark.parametrize("size", [LOOK - 1, LOOK, LOOK + 1, LOOK + 2])
def test_a_file_about_as_long_as_the_start_is_taken(size: int) -> None:
    text = LARGE[: size - 1] + b"\n"
    for start in (text[:LOOK], gzip.compress(text)):
        assert look(start) == list(COLUMNS)
        assert doubts(start) == []


def test_a_header_longer_than_the_start_is_no_header_of_ours() -> None:
    with pytest.raises(DropError, match="has no header"):
        look(b"x" * LOOK)


def test_a_header_alone_is_empty_only_if_nothing_comes_after_it() -> None:
    with pytest.raises(DropError, match="empty after its header"):
        look(csv())
    notes = b"," + b"n" * (LOOK - len(HEADER) - 2) + b"\n"
    assert look(HEADER + notes)[: len(COLUMNS)] == list(COLUMNS)
    assert doubts(HEADER + notes) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ticker", b"AA PL"),
        ("sector", b" "),
        ("date", b"03.01.2023"),
        ("date", b"2023-02-30"),
        ("close", b"1.234,5"),
        ("open", b"0"),
        ("low", b"nan"),
        ("high", b"inf"),
        ("volume", b"1.5"),
        ("volume", b"-1"),
    ],
)
def test_a_field_that_is_wrong_in_every_row_is_told_as_its_rule(field: str, value: bytes) -> None:
    fields = GOOD.split(b",")
    fields[COLUMNS.index(field)] = b'"%b"' % value
    row = b",".join(fields)
    assert doubts(csv(row, row)) == [f"Line {line}: {RULES[field]}" for line in (2, 3)]


def test_rows_of_other_length_are_told() -> None:
    row = GOOD.replace(b",", b";")
    assert doubts(csv(row)) == ["Line 2: has 1 fields where the header has 8"]


def test_one_good_row_among_the_first_is_enough() -> None:
    assert doubts(csv(b"x", GOOD, b"y")) == []


def test_no_more_than_the_first_rows_are_looked_at() -> None:
    assert len(doubts(csv(*[b"x"] * 100))) == 20
