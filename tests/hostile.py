"""Files that nobody sends by mistake, and a second reading of the contract to hold ours against."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random

from stock_assets.csv_text import COLUMNS, LOOK

TODAY = date(2019, 6, 28)
HEADER = ",".join(COLUMNS)
BOM = "\ufeff"
HTML = "<img src=x onerror=alert(1)>"
FORMULAS = ("=cmd|'/c calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")')

TICKERS = (
    *("AAPL", "brk.b", " T ", "A" * 15, "NA", "NULL", "1E5", "0", "CON", "A..", "A...B", "A-"),
    *("", " ", "A" * 16, ".A", "-A", "A B", "../A", "A/B", "A\\B", "A_B", "A%00", HTML, "[bold]A"),
    *("\uff21", "A\u200b", "\u202eA", "\u0410APL", "m\u017fft", "\u0131bm", "\u00df", "\ufb01"),
    "\u212a",
    *("A\u0301", BOM + "A", "\x85A", "\u3000A", "A\x9b31m", "\U0001f600", *FORMULAS),
)
SECTORS = (
    *("Technology", "Oil, Gas", 'Oil "n" Gas', " Energy", "\u00c4", "null", "1", "'", "#", "\\"),
    *("", "  ", "\u200b", "\u202eygrenE", "\x85", "\x9b31mred", "\u2028", "x" * 300, HTML),
    *("[red]x[/]", ":bomb:", "${jndi:ldap://x}", "%s%n", "'; DROP TABLE drops; --", "\ufffd"),
    "\uffff",
    *FORMULAS,
)
DAYS = (
    *("2019-06-27", "2019-06-28", "2019-06-26 ", "2016-02-29", "2000-02-29", "1999-12-31"),
    *("2019-06-29", "2199-01-01", "2262-04-12", "9999-12-31", "2019-02-30", "2019-02-29"),
    *("1699-12-31", "1700-01-01", "0001-01-01", "1677-09-21"),
    *("1900-02-29", "0000-00-00", "0000-01-01", "2019-00-10", "2019-6-27", "20190627"),
    "27/06/2019",
    *("2019-06-27T00:00:00", "2019-W26-4", "2019-178", "-2019-06-27", "+2019-06-27", "NaT", "now"),
    *("\u0662\u0660\u0661\u0669-06-27", "2019\u201106\u201127", "43643", "1561593600", ""),
)
NUMBERS = (
    *("180.45", "100", "100.0", "1e2", " 100 ", "+100", "100.", ".5", "1E+2", "1e-9"),
    *("99.99999999999999", "0", "-0", "-0.0", "-1", "1e308", "1.7976931348623157e308", "1e300"),
    *("1.1e300", "5e-324", "1e-400", "1" + "0" * 400, "0." + "0" * 400 + "1", "1e400", "-1e400"),
    *("1e2147483648", "1e-2147483649", "1e99999999999", "9" * 40, "NaN", "nan", "Infinity", "-inf"),
    *("inf", "INF", "0x10", "0b1", "0o7", "1_000", "1,000", "1 000", "1'000", "$1", "1%"),
    *("\uff11\uff10\uff10", "\u0661\u0660\u0660", "\u00bd", "\u00b2", "1e", "e1", "1e+", ".", "-"),
    *("+", "1.2.3", "--1", "1e5.5", "1d5", "1f", "100L", "nan(1)", "True", "false", "None", "NA"),
    *("", " ", "1\xa0", "\u20091", "1j", "9007199254740991", "9007199254740992"),
    *("18446744073709551616", "2.5", "7e3", "1e-5", "*", "=1+1"),
)
TOKENS: tuple[bytes, ...] = (
    *(text.encode() for text in (*TICKERS, *SECTORS, *DAYS, *NUMBERS)),
    *(b",", b",,,,,,,", b";", b"\t", b'"', b'""', b'"""', b'",', b',"', b'"\n"', b"'", b"\\"),
    *(b"\\n", b'\\"', b"\n", b"\r", b"\r\n", b"\n\r", b"\n\n\n", b"\r\r\n", b" \n", b"\t\n"),
    *(b"\x0b", b"\x0c", b"\x1f", b"\x1e", b"\0", b"\0\0\0\0", b"\x01", b"\x08", b"\x1a"),
    *(b"\x1b[31m", b"\x7f", b"\xc2\x9b31m", b"\xc2\x85"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\x1f\x8b", b"\x1f\x8b\x08\0"),
    *(b"\xc0\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf"),
    *(b"\xf4\x90\x80\x80", b"\xf5", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc9"),
    *(b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", HEADER.encode(), HEADER.upper().encode(), b",close"),
    *(b"ticker", b"PK\x03\x04", b"%PDF-1.4", b"x" * 9_000),
)
ENCODINGS = (
    *("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "utf-8-sig", "utf-7"),
    *("latin-1", "cp1252", "cp037", "shift-jis"),
)
FILE_NAMES: tuple[bytes, ...] = (
    *(b"../../x.csv", b"/etc/passwd", b"..", b".", b"...", b"", b" ", b"-rf", b"--help"),
    *(b".hidden", b"~root", b"..\\..\\x.csv", b"C:\\x.csv", b"\\\\host\\share\\x", b"CON"),
    *(b"NUL.csv", b"aux.csv.gz", b"x.csv:stream", b"%2e%2e%2fx.csv", b"..%2f..%2fx.csv"),
    *(b"%00.csv", b"x\0.csv", b"x\n.csv", b"x\r\nSet-Cookie: a=b.csv", "\u202evsc.exe".encode()),
    *("x\u200b.csv".encode(), "\u2025/x.csv".encode(), b"pr\xfcfung.csv", b"\xed\xa0\x80"),
    *(b"\x1b[31mred.csv", b"\x1b]0;owned\x07.csv", b"\xc2\x9b31m.csv", b"[bold]x[/bold].csv"),
    b":bomb:.csv",
    HTML.encode(),
    *(b"](javascript:alert(1)).csv", b"![x](http://x).csv", b"=cmd|x.csv", b"$(id).csv", b"`id`"),
    *(b"x" * 255, b"x.csv" * 60, b".csv", b".csv.gz", b".gz", b"'; DROP TABLE drops; --.csv"),
    *(b"{0}{x!r}%s%n", b"\xf0\x9f\x98\x80.csv", b'a"b.csv', b"a;b=c.csv", b"x.part", b"x.tmp"),
    b".stock-assets-upload-1",
)


# A second reading, row by row


@dataclass
class Told:
    """What the contract says of a file."""

    accepted: list[tuple[object, ...]] = field(default_factory=list)
    rejected: list[tuple[int, str]] = field(default_factory=list)
    collapsed: int = 0
    rows: int = 0


_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_WHITE = " \t"


def read(content: bytes) -> Told | None:
    """What becomes of each row of a file; nothing of one that is refused."""
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        text = content.decode().removeprefix(BOM)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    if _REFUSED.search(text):
        return None
    lines = list(enumerate(re.split("\r\n|\r|\n", text), 1))
    filled = [(number, line) for number, line in lines if line.strip(_WHITE)]
    names = [cell.strip().lower() for cell in _cells(filled[0][1])] if filled else []
    if [names.count(name) for name in COLUMNS] != [1] * 8 or len(filled) == 1:
        return None
    return _told(filled[1:], names) if len(filled[0][1].encode()) <= LOOK else None


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _told(filled: Sequence[tuple[int, str]], names: Sequence[str]) -> Told:
    sound = {number: _sound(_cells(line), names) for number, line in filled}
    closes: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for values in filter(None, sound.values()):
        closes.setdefault(values[:2], set()).add(values)
    told, seen = Told(rows=len(filled)), set()
    for number, line in filled:
        row = sound[number]
        if row in seen:
            told.collapsed += 1
        elif row and len(closes[row[:2]]) == 1:
            told.accepted.append(row)
        else:
            told.rejected.append((number, line if len(line) <= 4096 else line[:4096] + "…"))
        seen |= {row} if row else set()
    told.accepted.sort()
    return told


def _sound(cells: Sequence[str], names: Sequence[str]) -> tuple[object, ...] | None:
    """The values of a row that keeps every rule: ticker, date, sector, prices, volume."""
    if len(cells) != len(names):
        return None
    row = dict(zip(reversed(names), reversed(cells), strict=True))
    ticker, sector, day = (row[name].strip() for name in ("ticker", "sector", "date"))
    prices = [_number(row[name]) for name in ("close", "open", "low", "high")]
    volume = _number(row["volume"])
    close, opened, low, high = prices
    holds = (
        re.fullmatch("[A-Za-z0-9][A-Za-z0-9.-]{0,14}", ticker)
        and sector
        and (known := _day(day))
        and date(1700, 1, 1) <= known <= TODAY
        and all(0 < price <= 1e300 for price in prices)
        and low <= min(opened, close)
        and high >= max(opened, close)
        and 0 <= volume < 2**53
        and volume == int(volume)
    )
    return (ticker.upper(), day, sector, *prices, volume) if holds else None


def _day(text: str) -> date | None:
    try:
        year, month, day = map(int, re.fullmatch("([0-9]{4})-([0-9]{2})-([0-9]{2})", text).groups())  # type: ignore[union-attr]
        return date(1, 1, 1) + timedelta(date(year, month, day).toordinal() - 1)
    except (AttributeError, ValueError):
        return None


def _number(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else math.nan


# Mutations of sound files


def rows(random: Random, count: int) -> list[list[str]]:
    """Rows in the order of our columns: most are sound, some are hostile in a cell or two."""
    made = [sound_row(random) for _ in range(count)]
    for row in made:
        if random.random() < 0.1:
            for _ in range(random.choice((1, 1, 1, 8))):
                place = random.randrange(8)
                row[place] = random.choice({0: TICKERS, 1: SECTORS, 2: DAYS}.get(place, NUMBERS))
    return made


def sound_row(random: Random) -> list[str]:
    """A row that keeps every rule."""
    low, *between, high = sorted(random.uniform(1, 500) for _ in range(4))
    random.shuffle(between)
    written = random.choice((repr, "{:.2f}".format, "{:e}".format, "{:.0f}".format))
    numbers = [written(number) for number in (*between, low, high)]
    day = TODAY - timedelta(random.randrange(40))
    name, sector = random.choice("ABC"), random.choice(("Energy", "Oil, Gas", '"n"', "\u00c4"))
    return [name, sector, str(day), *numbers, str(random.randrange(10**6))]


def as_text(header: Sequence[str], body: Iterable[Sequence[str]], end: str = "\n") -> str:
    """A CSV in which cells are quoted where they must be."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\0")
    writer.writerows([header, *body])
    return text.getvalue().replace("\0", end)


def sound_file(random: Random) -> bytes:
    """A file in one of the ways that are as good as others."""
    body = rows(random, random.randrange(1, 12))
    body += random.choices(body, k=random.choice((0, 0, 1, 3)))  # repeats
    order = list(range(8))
    if random.random() < 0.3:
        random.shuffle(order)
    header = [COLUMNS[place] for place in order]
    body = [[row[place] for place in order] for row in body]
    if random.random() < 0.2:
        header, body = [*header, "note"], [[*row, "x"] for row in body]
    text = as_text(header, body, random.choice(("\n", "\n", "\r\n", "\r")))
    return (random.choice(("", "", "", BOM)) + text).encode()


def _cut(random: Random, content: bytearray) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 1, 2, 8, 60, 400)))


def _flip(random: Random, content: bytearray) -> None:
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def _set(random: Random, content: bytearray) -> None:
    if content:
        content[random.randrange(len(content))] = random.randrange(256)


def _remove(random: Random, content: bytearray) -> None:
    start, end = _cut(random, content)
    del content[start:end]


def _repeat(random: Random, content: bytearray) -> None:
    start, end = _cut(random, content)
    content[start:start] = content[start:end] * random.choice((1, 1, 2, 20))


def _move(random: Random, content: bytearray) -> None:
    start, end = _cut(random, content)
    moved = content[start:end]
    del content[start:end]
    place = random.randrange(len(content) + 1)
    content[place:place] = moved


def _insert(random: Random, content: bytearray) -> None:
    place = random.randrange(len(content) + 1)
    content[place:place] = random.choice(TOKENS)


def _overwrite(random: Random, content: bytearray) -> None:
    start, end = _cut(random, content)
    content[start:end] = random.choice(TOKENS)


def _replace_cell(random: Random, content: bytearray) -> None:
    cells = content.split(b",")
    cells[random.randrange(len(cells))] = bytearray(random.choice(TOKENS))
    content[:] = b",".join(cells)


def _truncate(random: Random, content: bytearray) -> None:
    del content[random.randrange(len(content) + 1) :]


def _splice(random: Random, content: bytearray) -> None:
    other = sound_file(random)
    content[random.randrange(len(content) + 1) :] = other[random.randrange(len(other)) :]


def _shuffle_lines(random: Random, content: bytearray) -> None:
    lines = content.split(b"\n")
    random.shuffle(lines)
    content[:] = b"\n".join(lines)


def _replace_ends(random: Random, content: bytearray) -> None:
    ends = [b"\n", b"\r\n", b"\r", b"\n\n", b"\r\r\n", b"\n\r"]
    content[:] = b"".join(line + random.choice(ends) for line in content.split(b"\n"))


def _transcode(random: Random, content: bytearray) -> None:
    text = content.decode(errors="replace")
    content[:] = text.encode(random.choice(ENCODINGS), errors="replace")


_MUTATIONS: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip, _set, _remove, _repeat, _move, _insert, _insert, _insert, _overwrite, _replace_cell),
    *(_replace_cell, _replace_cell, _truncate, _splice, _shuffle_lines, _replace_ends, _transcode),
)


def mutated(seed: object) -> bytes:
    """A file that has gone through some mutations, and maybe gzip; the same for the same seed."""
    random = Random(str(seed))
    content = mutated_bytes(random, sound_file(random))
    return packed(random, content) if random.random() < 0.25 else content


def mutated_bytes(random: Random, content: bytes) -> bytes:
    """The bytes after some mutations, or none."""
    mutant = bytearray(content)
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        random.choice(_MUTATIONS)(random, mutant)
    return bytes(mutant)


def packed(random: Random, content: bytes) -> bytes:
    """The content in gzip, well or badly."""
    half = len(content) // 2
    whole = gzip.compress(content, random.choice((0, 1, 9)), mtime=0)
    match random.randrange(8):
        case 0 | 1 | 2:
            return whole
        case 3:
            return gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0)
        case 4:
            return whole + random.choice(
                (bytes(9), b"garbage", whole[:3], b"\x1f", gzip.compress(b"", mtime=0))
            )
        case 5:
            return gzip.compress(whole, mtime=0)
        case _:
            damaged = bytearray(whole)
            random.choice((_flip, _set, _truncate, _remove, _repeat))(random, damaged)
            return bytes(damaged)
