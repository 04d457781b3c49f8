"""Whatever a file holds: no crash, no row lost or told twice, and every row keeps the contract."""

import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.csv_text import COLUMNS, LOOK, RULES, doubts, look
from stock_assets.errors import DropError
from stock_assets.prices import Validation, validate_csv
from tests.conftest import SOAK
from tests.hostile import (
    BOM,
    DAYS,
    HEADER,
    NUMBERS,
    SECTORS,
    TICKERS,
    TODAY,
    TOKENS,
    Told,
    as_text,
    mutated,
    read,
    rows,
    sound_row,
)

BIG = 1 << 30
REASONS = {
    *RULES.values(),
    *(
        "date is in the future",
        "date is before 1700",
        "low is above open or close",
        "high is below open or close",
    ),
    *("conflicts with another row of the same ticker and date", "quotes are not closed"),
}
WIDTH = re.compile(r"has \d+ fields where the header has \d+")
TO_DO = re.compile("Expected (a|one)|save the file as UTF-8|compress and drop it again|split it")


def judged(content: bytes, *, max_bytes: int = BIG) -> Validation | str:
    """What becomes of a file; of one that is refused, the sentence that says why."""
    try:
        return validate_csv(content, today=TODAY, max_bytes=max_bytes)
    except DropError as refusal:
        message = str(refusal)
    assert message.isprintable(), ascii(message)
    assert TO_DO.search(message), message
    assert len(message) < 2_500  # 200 characters of a header may be told as 2,000
    return message


def summary(found: Validation) -> Told:
    """The same in the words of the second reading."""
    days = found.accepted.assign(date=found.accepted["date"].dt.strftime("%Y-%m-%d"))
    order = ["ticker", "date", "sector", "close", "open", "low", "high", "volume"]
    return Told(
        accepted=list(days[order].itertuples(index=False, name=None)),
        rejected=list(found.rejected[["line", "raw"]].itertuples(index=False, name=None)),
        collapsed=found.collapsed,
        rows=found.rows_read,
    )


def demand_sound(found: Validation) -> None:
    """Counts add up, every reason is one of ours, and every rejected row has some."""
    assert found.rows_read == len(found.accepted) + len(found.rejected) + found.collapsed
    assert not found.accepted.duplicated(["ticker", "date"]).any()
    assert found.accepted.columns.tolist() == list(COLUMNS)
    assert all(found.rejected["reasons"].map(len))
    assert all(reason in REASONS or WIDTH.fullmatch(reason) for reason in found.reasons)


def same(one: Validation | str, other: Validation | str) -> bool:
    """Whether two files came to the same, to the last digit."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return (
        one.accepted.equals(other.accepted)
        and one.rejected.equals(other.rejected)
        and (one.collapsed, one.rows_read) == (other.collapsed, other.rows_read)
    )


def demand_told_alike(content: bytes) -> bool:
    """A file comes to what the second reading tells of it; whether it is a CSV of prices."""
    found, expected = judged(content), read(content)
    start_is_refused, doubted = "", []
    try:
        look(content[:LOOK])
        doubted = doubts(content[:LOOK])
    except DropError as refusal:
        start_is_refused = str(refusal)
    if isinstance(found, str):
        assert expected is None, found
        return False
    demand_sound(found)
    assert summary(found) == expected
    assert not start_is_refused
    lines = {int(re.match(r"Line (\d+)", doubt)[1]) for doubt in doubted}  # type: ignore[index]
    assert lines <= {*found.rejected["line"]}
    return True


# Mutated files


def demand_all_told_alike(block: int, files: int) -> None:
    taken = 0
    for number in range(files):
        content = mutated(f"{block}-{number}")
        try:
            taken += demand_told_alike(content)
        except Exception as error:
            error.add_note(f"mutated('{block}-{number}') = {content!r}")
            raise
    assert files / 4 < taken < files * 0.95  # neither all sound nor all refused: both are tried


@pytest.mark.parametrize("block", range(20))
def test_mutated_files_come_to_what_a_second_reading_tells(block: int) -> None:
    demand_all_told_alike(block, 360)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("block", [pytest.param(n, marks=SOAK) for n in range(1_000, 1_100)])
def test_very_many_mutated_files_come_to_what_a_second_reading_tells(block: int) -> None:
    demand_all_told_alike(block, 5_000)


def test_mutations_are_the_same_for_the_same_seed_and_others_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [mutated(seed) for seed in range(300)]
    monkeypatch.setattr(time, "time", lambda: 1e9)  # what gzip would write down
    assert files == [mutated(seed) for seed in range(300)]
    assert len({*files}) > 295


def test_the_same_file_comes_to_the_same_twice() -> None:
    for seed in range(150):
        content = mutated(f"twice-{seed}")
        assert same(judged(content), judged(content))


def test_each_token_of_the_dictionary_anywhere_in_a_file() -> None:
    line = ",".join(sound_row(Random(0))).encode()
    for token in TOKENS:
        for content in (
            token + HEADER.encode() + b"\n" + line,
            HEADER.encode() + b"\n" + token + line,
            HEADER.encode() + b"\n" + line + token + b"\n" + line,
        ):
            demand_told_alike(content)
        demand_told_alike(gzip.compress(content))


# Hostile cells


CELLS = st.tuples(
    *(st.sampled_from(cells) for cells in (TICKERS, SECTORS, DAYS, *[NUMBERS] * 5))
).map(list)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """Rows in the order of our columns, sound ones, hostile ones and repeats."""
    made = rows(Random(draw(st.integers(0, 9_999))), draw(st.integers(0, 8)))
    made += draw(st.lists(CELLS, min_size=not made, max_size=4))
    made += draw(st.lists(st.sampled_from(made), max_size=4))
    return draw(st.permutations(made))


def reordered(body: Sequence[Sequence[str]], order: Sequence[int]) -> str:
    return as_text([COLUMNS[n] for n in order], [[row[n] for n in order] for row in body])


def told_of(found: Validation | str) -> tuple[Any, ...]:
    """What does not depend on how a table is written down."""
    assert not isinstance(found, str), found
    rejected = list(zip(found.rejected["line"], found.rejected["reasons"], strict=True))
    return found.accepted.to_dict("records"), rejected, found.collapsed, found.rows_read


@given(body=tables(), order=st.permutations(range(8)), cut=st.integers(0, 3_000))
@settings(deadline=None, max_examples=50)
def test_how_a_table_is_written_does_not_matter(
    body: list[list[str]], order: list[int], cut: int
) -> None:
    text = as_text(COLUMNS, body)
    plain = text.encode()
    demand_told_alike(plain)
    expected = judged(plain)
    for way in (
        gzip.compress(plain),
        gzip.compress(plain[:cut], 0) + gzip.compress(b"") + gzip.compress(plain[cut:]) + bytes(7),
        (BOM + text).encode(),
        text.replace("\n", "\r\n").encode(),
        gzip.compress((BOM + text.replace("\n", "\r")).encode()),
        text.removesuffix("\n").encode() + b"\n\n \n\t",
    ):
        assert same(judged(way), expected)
    others = [
        reordered(body, order),
        as_text([f" {name.title()} " for name in COLUMNS], body),
        as_text([*COLUMNS, "note", "note"], [[*row, "=1", ""] for row in body]),
        as_text(COLUMNS, [[f"\u2003{cell} " for cell in row] for row in body]),
    ]
    for other in others[:3]:
        assert told_of(judged(other.encode())) == told_of(expected)


@given(body=tables(), more=tables())
@settings(deadline=None, max_examples=70)
def test_a_row_of_another_ticker_changes_nothing_for_the_others(
    body: list[list[str]], more: list[list[str]]
) -> None:
    alone = judged(as_text(COLUMNS, body).encode())
    others = [[f"Z9{row[0].strip()}", *row[1:]] for row in more]
    beside = judged(as_text(COLUMNS, [*body, *others]).encode())
    assert isinstance(alone, Validation)
    assert isinstance(beside, Validation)
    ours = beside.accepted[~beside.accepted["ticker"].str.startswith("Z9")]
    pd.testing.assert_frame_equal(ours.reset_index(drop=True), alone.accepted)
    first = beside.rejected[beside.rejected["line"] <= len(body) + 1]
    assert first.to_numpy().tolist() == alone.rejected.to_numpy().tolist()


def with_numbers(place: int, *numbers: str) -> list[list[str]]:
    """A row of its own ticker for each, in which all is sound but that."""
    body = [
        [f"T{n}", "Energy", "2019-06-27", "100", "100", "5e-324", "1e300", "1"]
        for n in range(len(numbers))
    ]
    for row, number in zip(body, numbers, strict=True):
        row[place] = number
    return body


@pytest.mark.parametrize("place", [3, 7], ids=["price", "volume"])
def test_a_number_is_read_the_same_alone_and_beside_any_other(place: int) -> None:
    """Which reader of numbers is asked depends on all of a column."""
    together = judged(as_text(COLUMNS, with_numbers(place, *NUMBERS)).encode())
    assert isinstance(together, Validation)
    taken = together.accepted.set_index("ticker").drop(columns="date").T.to_dict("list")
    for place_of, number in enumerate(NUMBERS):
        alone = judged(as_text(COLUMNS, with_numbers(place, number)).encode())
        assert isinstance(alone, Validation)
        fate = alone.accepted.drop(columns=["ticker", "date"]).to_numpy().tolist()
        assert fate == ([taken[f"T{place_of}"]] if f"T{place_of}" in taken else []), number
    assert 10 < len(taken) < len(NUMBERS) - 10


@pytest.mark.parametrize(
    "name", ["\u017f", "\u0131", "\u00df", "\ufb01", "\uff21", "\u212a", "\u0410"]
)
def test_no_letter_of_another_alphabet_becomes_one_of_ours(name: str) -> None:
    found = judged(as_text(COLUMNS, [[name, "Energy", "2019-06-27", *["1"] * 5]]).encode())
    assert isinstance(found, Validation)
    assert found.reasons == {RULES["ticker"]: 1}


@pytest.mark.parametrize("day", ["2019-06-29", "2262-04-11", "2262-04-12", "9999-12-31"])
def test_a_day_however_far_ahead_is_in_the_future(day: str) -> None:
    found = judged(as_text(COLUMNS, [["A", "Energy", day, *["1"] * 5]]).encode())
    assert isinstance(found, Validation)
    assert found.reasons == {"date is in the future": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "latin-1"])
def test_a_file_in_another_encoding_is_refused_as_what_it_is(encoding: str) -> None:
    content = as_text(COLUMNS, [["A", "\u00c4", "2019-06-27", *["1"] * 5]]).encode(encoding)
    for way in (content, gzip.compress(content)):
        assert "UTF-8" in str(judged(way))


def test_a_member_of_a_gzip_may_begin_where_the_look_at_the_start_ends() -> None:
    line = ",".join(sound_row(Random(0))).encode() + b"\n"
    text = HEADER.encode() + b"\n" + line * 2_000
    for left in (1, 2, 9, 10, 17, 18):
        size = LOOK - left
        around = len(gzip.compress(text[: size - 99], 0)) - size + 99  # it is not compressed
        first = gzip.compress(text[: size - around], 0)
        assert len(first) == size
        assert demand_told_alike(first + gzip.compress(line))


# Bombs


NO_ROWS = "lines of the file are no rows"
BOMBS = {  # what is repeated, how often in a part of a gzip, in how many parts; what is said of it
    "zeros, three gigabytes": (b"\0", 1 << 24, 192, "not text|more than"),
    "lines without anything": (b"\n", 1 << 24, 6, NO_ROWS),
    "blank lines": (b" \n", 1 << 23, 6, NO_ROWS),
    "lines of a letter": (b"x\n", 1 << 23, 6, NO_ROWS),
    "lines of commas": (b",,,,,,,\n", 1 << 21, 6, NO_ROWS),
    "carriage returns": (b"\r", 1 << 24, 6, NO_ROWS),
    "rows that break all rules": (b",,,,,,,,,,,,,,,,,,,,\n,,,,,,,\n\n", 900_000, 1, NO_ROWS),
    "rows with a wrong date": (b"A,B,2019-02-30,1,1,1,1,1\n", 1 << 20, 1, NO_ROWS),
    "a million empty lines": (b"\n", 1_000_000, 1, "empty after its header"),
    "one cell": (b"x", 1 << 24, 6, "1 rejected"),
    "one quoted cell": (b'"', 1 << 24, 6, "1 rejected"),
    "one line of commas": (b",", 1 << 24, 3, "1 rejected"),
    "one line of spaces": (b" ", 1 << 24, 6, "empty after its header"),
    "a cell of emoji": ("\U0001f600".encode(), 1 << 22, 3, "1 rejected"),
    "a million columns": (b",x", 1 << 20, 1, "The header in line 1 has"),
    "a column a million times": (b",close", 1 << 20, 6, "The header in line 1 has"),
    "a column ten thousand times": (b",close", 10_000, 1, "names close twice"),
}
BLOWN_UP = """
import gzip, json, os, resource, sys, time
from datetime import date
from stock_assets.csv_text import COLUMNS, LOOK, look
from stock_assets.errors import DropError
from stock_assets.prices import validate_csv

HEADER = ",".join(COLUMNS).encode()
ROW = b"A,B,2019-01-01,1,1,1,1,1\\n"

def told(content, most):
    try:
        found = validate_csv(content, today=date(2019, 6, 28), max_bytes=most)
    except DropError as refusal:
        return str(refusal)
    return f"{len(found.accepted)} accepted, {len(found.rejected)} rejected"

def measured(content, most):
    before = int(open("/proc/self/statm").read().split()[1]) * 4096
    size = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 30),) * 2)
    begun = time.process_time()
    what = told(content, most)
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([what, seconds, (peak - before) / 1e6]), flush=True)

told(HEADER + b"\\n" + ROW, 1 << 20)  # everything is loaded
for line in sys.stdin:
    text, at_once, parts, most = json.loads(line)
    text = bytes.fromhex(text)
    head = HEADER if text in {b",x", b",close"} else HEADER + b"\\n"
    content = gzip.compress(head) + gzip.compress(text * at_once, 1) * parts + gzip.compress(b"\\n")
    if not (child := os.fork()):
        try:
            measured(content, most)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def blow_up() -> Any:
    """Has a file validated in a process of its own: what is said, CPU seconds, MB at the peak."""
    with subprocess.Popen(
        [sys.executable, "-c", BLOWN_UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        asked, answers = process.stdin, process.stdout

        def blow_up(text: bytes, at_once: int, parts: int, most: int) -> tuple[str, float, float]:
            asked.write(f"{json.dumps([text.hex(), at_once, parts, most])}\n")
            asked.flush()
            what, seconds, megabytes = json.loads(answers.readline())
            return what, seconds, megabytes

        yield blow_up
        asked.close()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_little_more_memory_than_its_text(name: str, blow_up: Any) -> None:
    text, at_once, parts, what = BOMBS[name]
    told, seconds, megabytes = blow_up(text, at_once, parts, 100 << 20)
    assert re.search(what, told)
    assert seconds < (0.5 if name == "a column ten thousand times" else 20)
    assert megabytes < 1_300


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=SOAK) for text in (b"\0", b"\n", b"x\n", b",", b'"', b",,,,,,,\n")],
    ids=ascii,
)
def test_a_bomb_of_all_that_may_be_taken(text: bytes, blow_up: Any) -> None:
    told, _, megabytes = blow_up(text, (1 << 24) // len(text), 63, BIG)
    assert "rejected" in told or TO_DO.search(told)
    assert megabytes < 14 * 1_074


# Files of which nearly all is wrong


MANY = {
    "lines that are no rows": ["x,y,z," + "-" * 24] * 101,
    "rows that break a rule": [",".join(["A", "B", "2019-02-30", *["1"] * 5])] * 101,
    "rows that conflict": [
        ",".join(["A", "B", "2019-01-01", *["1"] * 4, f"{n}"]) for n in range(101)
    ],
    "blank lines": [""] * 112,
}


@pytest.mark.parametrize("kind", MANY)
def test_a_file_with_more_wrong_rows_than_can_be_told_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stock_assets.prices._MOST_REJECTED", 100)
    sound = ",".join(["SOUND", "B", "2019-01-01", *["1"] * 5])
    refused = judged("\n".join([HEADER, *MANY[kind], sound]).encode())
    assert isinstance(refused, str)
    assert refused.startswith("More than 100 lines of the file are no rows that can be taken (")
    assert refused.endswith("mend the file, or split it, and drop it again.")
    found = judged("\n".join([HEADER, *MANY[kind][9:], sound]).encode())
    assert isinstance(found, Validation)
    assert found.accepted["ticker"].tolist() == ["SOUND"]
