"""Uploads: exactly the bytes that were sent become a drop, or nothing does."""

import asyncio
import gzip
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from fastapi import FastAPI
from hypothesis import assume, given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from stock_assets.api.app import create_app
from stock_assets.api.problems import ProblemError
from stock_assets.api.uploads import Received, plain_name, receive, unfinished
from stock_assets.csv_text import LOOK, RULES
from stock_assets.drops import look as look_at
from stock_assets.errors import DropError
from stock_assets.files import UNFINISHED, Files, Folder, files_at, sweep
from stock_assets.names import drop_key
from stock_assets.settings import Settings
from tests.asgi import Answer, ask
from tests.conftest import as_csv, make_prices, names

BOUNDARY = "cut-4f3a9c"
DELIMITER = f"\r\n--{BOUNDARY}".encode()
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CSV = as_csv(make_prices(days=3))
SHA256 = hashlib.sha256(CSV).hexdigest()
BIG = 1 << 30
EXPECTED = 'Expected a form with one file in the field "file": curl -F "file=@prices.csv".'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "drops"


def look(folder: Path) -> dict[str, list[int]]:
    """What the sensor sees there."""
    return look_at(Folder(folder))


def part(content: bytes, name: str = "file", file_name: bytes | None = b"prices.csv") -> bytes:
    """A field of a form, as curl writes it."""
    file = b"" if file_name is None else b'; filename="%b"' % file_name
    head = b'Content-Disposition: form-data; name="%b"%b' % (name.encode(), file)
    return b"%b\r\n%b\r\nContent-Type: text/csv\r\n\r\n%b\r\n" % (DELIMITER[2:], head, content)


END = f"--{BOUNDARY}--\r\n".encode()


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + END


async def sent(blocks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def received_from(
    place: Path | Files,
    blocks: Iterable[bytes],
    *,
    content_type: str = FORM,
    most: int = BIG,
    then: Callable[[Received], None] = lambda _: None,
) -> Received:
    """What comes of a body; `then` is called while the file is there."""
    with unfinished(Folder(place) if isinstance(place, Path) else place) as received:
        asyncio.run(receive(received, content_type, sent(blocks), most))
        then(received)
    return received


def refused(folder: Path, *body: bytes, content_type: str = FORM, most: int = BIG) -> ProblemError:
    """Why a body was refused; nothing is left of it."""
    with pytest.raises(ProblemError) as error:
        received_from(folder, body, content_type=content_type, most=most)
    assert list(folder.iterdir()) == []
    return error.value


# What is received


def cut(content: bytes, at: Iterable[int]) -> list[bytes]:
    """The content in blocks, cut anywhere."""
    edges = sorted({0, len(content), *(place % (len(content) + 1) for place in at)})
    return [content[start:end] for start, end in pairwise(edges)]


BYTES = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([b"\r\n", b"\r", b"\n", b"-", b"--", DELIMITER[:-1], DELIMITER[:4], b"\0"]),
    st.sampled_from([DELIMITER[2:], DELIMITER[4:], b"--" + DELIMITER[2:] + b"--", b"\r\r\n--"]),
)
CONTENTS = st.lists(BYTES, max_size=12).map(b"".join)
OTHERS = st.lists(
    st.builds(
        part,
        CONTENTS.filter(lambda content: DELIMITER not in b"\r\n" + content + b"\r\n"),
        st.sampled_from(["comment", "files", "File", "file ", "fil", ""]),
        st.sampled_from([None, b"other.csv"]),
    ),
    max_size=3,
)


@of_hypothesis(deadline=None, max_examples=60)
@given(
    junk=CONTENTS,
    before=OTHERS,
    after=OTHERS,
    epilogue=st.sampled_from([b"", b"\r\n", b"more\r\n" + DELIMITER]),
    places=st.one_of(st.lists(st.integers(0, 2_000), max_size=40), st.just(range(5_000))),
)
def test_exactly_the_bytes_of_the_file_are_received(  # noqa: PLR0913, PLR0917
    tmp_path_factory: pytest.TempPathFactory,
    junk: bytes,
    before: list[bytes],
    after: list[bytes],
    epilogue: bytes,
    places: Iterable[int],
) -> None:
    packed = gzip.compress(CSV)  # with an extra field, which may hold anything
    extra = len(junk).to_bytes(2, "little") + junk
    content = packed[:3] + b"\x04" + packed[4:10] + extra + packed[10:]
    assume(DELIMITER not in content + b"\r\n")
    body = form(*before, part(content), *after) + epilogue
    found = []

    def keep(received: Received) -> None:
        found.append(received.path.read_bytes())

    folder = tmp_path_factory.getbasetemp() / "property"
    received = received_from(folder, cut(body, places), then=keep)
    assert found == [content]
    assert received.size == len(content)
    assert received.sha256 == hashlib.sha256(content).hexdigest()
    assert received.file_name == "prices.csv"
    assert received.is_gzip
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [CSV, gzip.compress(CSV)], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", [b"prices.csv", b"prices.csv.gz", b"prices"])
def test_what_it_is_is_told_by_its_bytes(folder: Path, content: bytes, name: bytes) -> None:
    def publish(received: Received) -> None:
        received.publish("key")

    received = received_from(folder, [form(part(content, file_name=name))], then=publish)
    is_gzip = content != CSV
    assert received.is_gzip == is_gzip
    (file,) = folder.iterdir()
    assert file.name == ("key.csv.gz" if is_gzip else "key.csv")
    assert file.read_bytes() == content


def test_columns_that_are_not_ours_are_told(folder: Path) -> None:
    content = b"".join(line + b",x\n" for line in CSV.splitlines()).replace(b",x\n", b",Note\n", 1)
    assert received_from(folder, [form(part(content))]).ignored_columns == ["note"]


def test_first_rows_that_are_all_wrong_are_told(folder: Path) -> None:
    received = received_from(folder, [form(part(CSV.replace(b"-", b"/")))])
    assert received.doubts[0] == f"Line 2: {RULES['date']}"
    assert received_from(folder, [form(part(CSV))]).doubts == []


def test_the_sensor_sees_nothing_before_it_is_published(folder: Path) -> None:
    seen = []

    def watched() -> Iterator[bytes]:
        for block in cut(form(part(CSV)), range(0, 2_000, 7)):
            seen.append(look(folder))
            yield block

    def publish(received: Received) -> None:
        seen.append(look(folder))
        received.publish("key")

    received_from(folder, watched(), then=publish)
    assert len(seen) > 30
    assert not any(seen)
    assert list(look(folder)) == ["key.csv"]


def test_what_is_published_takes_the_place_of_what_was_there(folder: Path) -> None:
    folder.mkdir()
    (folder / "key.csv").write_bytes(b"old")
    received_from(folder, [form(part(CSV))], then=lambda received: received.publish("key"))
    assert [file.read_bytes() for file in folder.iterdir()] == [CSV]


def test_many_at_once_do_not_meet(folder: Path) -> None:
    contents = [as_csv(make_prices(f"T{n}", 50)) for n in range(20)]

    async def one(content: bytes) -> str:
        with unfinished(Folder(folder)) as received:
            blocks = cut(form(part(content)), range(0, 10_000, 100))
            await receive(received, FORM, sent(blocks), BIG)
            received.publish(drop_key("x", received.sha256))
            return received.sha256

    async def test() -> list[str]:
        return await asyncio.gather(*map(one, contents))

    digests = asyncio.run(test())
    assert digests == [hashlib.sha256(content).hexdigest() for content in contents]
    assert {file.read_bytes() for file in folder.iterdir()} == {*contents}


# What is refused


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/csv", "application/json", "application/x-www-form-urlencoded", ";"),
        *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x=b"),
        *("multipart/mixed; boundary=b", "multipart/form-data boundary=b"),
    ],
)
def test_what_is_no_form_is_refused(folder: Path, content_type: str) -> None:
    error = refused(folder, form(part(CSV)), content_type=content_type)
    assert (error.status, str(error)) == (415, f"The body is no form. {EXPECTED}")


@pytest.mark.parametrize(
    "content_type",
    [
        f"Multipart/Form-Data;boundary={BOUNDARY}",
        f'multipart/form-data; charset=utf-8; boundary="{BOUNDARY}"',
    ],
)
def test_a_form_is_known_however_it_is_written(folder: Path, content_type: str) -> None:
    received = received_from(folder, [form(part(CSV))], content_type=content_type)
    assert received.size == len(CSV)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (END, "The form has no file in that field"),
        (form(part(CSV, "files")), "The form has no file in that field"),
        (form(part(CSV, file_name=None)), "The form has no file in that field"),
        (form(part(CSV), part(CSV)), "The form has 2 files in that field"),
        (form(part(CSV), part(b"x", "note"), part(b"")), "The form has 2 files in that field"),
        (b"", "The form breaks off before its end"),
        (part(CSV), "The form breaks off before its end"),
        (part(CSV) + END[:-4], "The form breaks off before its end"),
        (part(CSV)[:-20], "The form breaks off before its end"),
        (part(CSV)[:30], "The form breaks off before its end"),
        (CSV, "The form cannot be read ("),
        (b"\0" * 100, "The form cannot be read ("),
        (form(part(CSV)).replace(b"Content-Type:", b"Content Type:"), "The form cannot be read ("),
        (form(part(CSV)).replace(b"Content-Type:", b":"), "The form cannot be read ("),
        (form(part(CSV, file_name=b"x" * 10_000)), "The form cannot be read (Maximum header size"),
        (
            form(part(CSV).replace(b"\r\n", b"\r\n" + b"X: y\r\n" * 50, 1)),
            "The form cannot be read (Max",
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_wrong_with_a_form_is_told(folder: Path, body: bytes, why: str, size: int) -> None:
    error = refused(folder, *cut(body, range(0, len(body), size)))
    assert error.status == 422
    assert str(error).startswith(why)
    assert str(error).endswith(f". {EXPECTED}")


def test_a_boundary_that_is_too_long_is_told(folder: Path) -> None:
    error = refused(folder, content_type=f"multipart/form-data; boundary={'x' * 5_000}")
    assert error.status == 422
    assert str(error).startswith("The form cannot be read (Boundary length 5000 exceeds")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "The file is empty"),
        (b"a,b\n1,2\n", "The file has no header"),
        (b"PK\x03\x04" + bytes(100), "The file is not text"),
        (b"\x1f\x8b" + bytes(100), "The gzip file is damaged"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "The file has no header"),
    ],
)
def test_a_file_that_is_no_csv_of_prices_is_told(folder: Path, content: bytes, why: str) -> None:
    with pytest.raises(DropError, match=why):
        received_from(folder, [form(part(content))])
    assert list(folder.iterdir()) == []


def counted(blocks: Iterable[bytes], taken: list[int]) -> Iterator[bytes]:
    for block in blocks:
        taken.append(len(block))
        yield block


def test_a_wrong_file_is_refused_while_most_of_it_is_still_to_come(folder: Path) -> None:
    rows = b"wrong,header\n" + b"1,2\n" * 4_000
    taken: list[int] = []
    blocks = counted([part(b"")[:-2], *[rows] * 1_000], taken)
    with pytest.raises(DropError, match="wrong,header"):
        received_from(folder, blocks)
    assert LOOK < sum(taken) <= LOOK + 2 * len(rows)
    assert list(folder.iterdir()) == []


def test_a_file_that_is_too_large_is_refused_as_soon_as_it_is(folder: Path) -> None:
    rows = CSV.split(b"\n", 1)[1] * 50
    taken: list[int] = []
    most = 40 * len(rows)
    with pytest.raises(ProblemError) as error:
        received_from(folder, counted([part(CSV)[:-2], *[rows] * 1_000], taken), most=most)
    assert error.value.status == 413
    assert f"more than {most:,} bytes" in str(error.value)
    assert "STOCK_ASSETS_MAX_DROP_BYTES" in str(error.value)
    assert most < sum(taken) < most + 2 * len(rows)
    assert list(folder.iterdir()) == []


def test_a_file_of_exactly_the_most_is_taken(folder: Path) -> None:
    assert received_from(folder, [form(part(CSV))], most=len(CSV)).size == len(CSV)
    assert refused(folder, form(part(CSV)), most=len(CSV) - 1).status == 413


def test_other_fields_are_no_part_of_the_size(folder: Path) -> None:
    body = form(part(b"x" * 10_000, "note"), part(CSV), part(b"x" * 10_000, "note"))
    assert received_from(folder, [body], most=len(CSV)).size == len(CSV)


def test_a_part_without_headers_is_no_file(folder: Path) -> None:
    bare = DELIMITER[2:] + b"\r\n\r\nx\r\n"
    assert received_from(folder, [form(bare, part(CSV), bare)]).size == len(CSV)


def test_a_large_file_is_never_whole_in_memory(folder: Path) -> None:
    rows = CSV.split(b"\n", 1)[1] * 400
    n = 40_000_000 // len(rows)
    blocks = [part(CSV)[:-2], *[rows] * n, b"\r\n" + END]
    tracemalloc.start()
    try:
        received = received_from(folder, blocks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received.size == len(CSV) + n * len(rows) > 39_000_000
    assert peak < 2_000_000


# Names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        (b"prices.csv", "prices.csv"),
        ("Börse 2024, Kurse.csv".encode(), "Börse 2024, Kurse.csv"),
        ("株価.csv".encode(), "株価.csv"),
        (b"../../etc/passwd", "passwd"),
        (b"/etc/passwd", "passwd"),
        (b"C:\\Users\\me\\prices.csv", "prices.csv"),
        (b"..\\..\\prices.csv", "prices.csv"),
        (b"a/b\\c/d.csv", "d.csv"),
        (b"..", ".."),
        (b".upload-x", ".upload-x"),
        (b"folder/", "drop"),
        (b"", "drop"),
        (b"a\0b.csv", "a�b.csv"),
        (b"a\r\n\tb\x1b[31m.csv", "a���b�[31m.csv"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}vsc.exe".encode(), "a�vsc.exe"),
        ("a\N{ZERO WIDTH SPACE}b\N{LINE SEPARATOR}c".encode(), "a�b�c"),
        (b"pr\xfcfung.csv", "pr�fung.csv"),
        (b"\xed\xa0\x80.csv", "���.csv"),
        (b"x" * 10_000, "x" * 255),
    ],
)
def test_a_name_is_shown_without_what_could_mislead(name: bytes, plain: str) -> None:
    assert plain_name(name) == plain


@of_hypothesis(deadline=None)
@given(name=st.binary() | st.text().map(lambda text: text.encode(errors="surrogatepass")))
def test_any_name_is_safe(tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
    plain = plain_name(name)
    assert plain.isprintable()
    assert 0 < len(plain) <= 255
    assert not {"/", "\\"} & {*plain}
    plain.encode()
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    received = Received(Folder(folder), folder / f"{UNFINISHED}1")
    received.path.write_bytes(b"x")
    received.publish(drop_key(plain, "0" * 64))
    (file,) = folder.iterdir()
    assert list(look(folder)) == [file.name]
    file.unlink()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        (b"my prices; 2024.csv", "my prices; 2024.csv"),
        (b'a\\"b.csv', 'a"b.csv'),
        (b"%22.csv", "%22.csv"),
        ("Börse.csv".encode(), "Börse.csv"),
    ],
)
def test_a_name_is_read_as_it_was_sent(folder: Path, name: bytes, plain: str) -> None:
    assert received_from(folder, [form(part(CSV, file_name=name))]).file_name == plain


# Through the service


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"dagster_url": "http://127.0.0.1:9"}))


@pytest.fixture
def drops(settings: Settings) -> Path:
    """The drop folder."""
    return settings.home / "drops"


def upload(app: FastAPI, *body: bytes, is_whole: bool = True) -> Answer:
    headers = {"Content-Type": FORM, "Host": "localhost"}
    return ask(app, "/upload", method="POST", headers=headers, body=body, is_whole=is_whole)


def test_a_published_drop_stays_in_the_folder(app: FastAPI, drops: Path) -> None:
    answer = upload(app, form(part(CSV, file_name=b"../../../up.csv")))
    assert answer.status == 202
    drop = answer.json()["drop"]
    assert drop == drop_key("up.csv", hashlib.sha256(CSV).hexdigest())
    assert (drops / f"{drop}.csv").read_bytes() == CSV
    assert len([*drops.iterdir()]) == 1


@pytest.mark.parametrize("places", [(), (10,), (200,), range(0, 600, 50)])
def test_who_breaks_off_leaves_nothing(app: FastAPI, drops: Path, places: Iterable[int]) -> None:
    upload(app, *cut(form(part(CSV))[:-10], places), is_whole=False)
    assert list(drops.iterdir()) == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a full disk: whoever writes more gets an error of the operating system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told(app: FastAPI, drops: Path) -> None:
    large = CSV + CSV.split(b"\n", 1)[1] * 20_000
    with files_of_at_most(1_000_000):
        answer = upload(app, *cut(form(part(large)), range(0, len(large), 65_536)))
    assert answer.status == 503
    assert answer.json()["detail"] == (
        f"The folder {drops} cannot be written to (File too large): "
        "make room there, or let the service's user write to it; then upload again."
    )
    assert list(drops.iterdir()) == []
    assert upload(app, form(part(large))).status == 202


def test_a_folder_that_cannot_be_made_is_told(app: FastAPI, drops: Path) -> None:
    drops.write_text("a file")
    answer = upload(app, form(part(CSV)))
    assert answer.status == 503
    assert f"The folder {drops} cannot be written to" in answer.json()["detail"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_told(app: FastAPI, drops: Path) -> None:
    drops.mkdir()
    drops.chmod(0o500)
    answer = upload(app, form(part(CSV)))
    drops.chmod(0o700)
    assert (answer.status, "Permission denied" in answer.json()["detail"]) == (503, True)


@pytest.mark.parametrize(
    ("after", "why"),
    [(lambda _: None, "No such file or directory"), (Path.touch, "Not a directory")],
)
def test_a_folder_that_is_gone_is_told(
    folder: Path, after: Callable[[Path], None], why: str
) -> None:
    def publish(received: Received) -> None:
        shutil.rmtree(folder)
        after(folder)
        received.publish("key")

    with pytest.raises(ProblemError, match=why) as error:
        received_from(folder, [form(part(CSV))], then=publish)
    assert error.value.status == 503


# To a bucket


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    return spool


@pytest.fixture
def to_bucket(settings: Settings, bucket: str, spool: Path) -> FastAPI:  # noqa: ARG001
    """The service, with all files in a bucket."""
    nobody = {"dagster_url": "http://127.0.0.1:9"}
    return create_app(settings.model_copy(update={"files": bucket, **nobody}))


def test_an_upload_is_put_into_the_bucket(to_bucket: FastAPI, bucket: str, spool: Path) -> None:
    answer = upload(to_bucket, *cut(form(part(CSV)), range(0, 600, 50)))
    assert answer.status == 202
    drop = answer.json()["drop"]
    drops = files_at(f"{bucket}/drops")
    assert [*drops.read_each([f"{drop}.csv"])] == [CSV]
    assert names(files_at(bucket)) == [f"drops/{drop}.csv"]
    assert [*spool.iterdir()] == []


def test_the_same_upload_is_put_once(to_bucket: FastAPI, bucket: str) -> None:
    """Dagster is down, so the first one still waits."""
    seen = []
    for _ in range(2):
        assert upload(to_bucket, form(part(CSV))).status == 202
        seen.append(files_at(f"{bucket}/drops").states())
        time.sleep(1.1)  # the store tells seconds
    assert seen == [seen[0]] * 2
    assert list(seen[0]) == [f"{drop_key('prices.csv', SHA256)}.csv"]


@pytest.mark.parametrize("body", [form(part(CSV))[:-10], form(part(b"a,b\n1,2\n"))])
def test_an_upload_that_is_not_taken_leaves_nothing(
    to_bucket: FastAPI, bucket: str, spool: Path, body: bytes
) -> None:
    assert upload(to_bucket, body).status == 422
    assert names(files_at(bucket)) == []
    assert [*spool.iterdir()] == []


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_is_told(settings: Settings, spool: Path) -> None:
    changes = {"files": "s3://nowhere", "dagster_url": "http://127.0.0.1:9"}
    answer = upload(create_app(settings.model_copy(update=changes)), form(part(CSV)))
    assert answer.status == 503
    assert answer.json()["detail"].startswith("There is no bucket 'nowhere', which s3://nowhere/dr")
    assert [*spool.iterdir()] == []


def test_what_a_killed_service_left_on_its_way_to_a_bucket_is_swept(
    to_bucket: FastAPI, spool: Path
) -> None:
    for name in (f"{UNFINISHED}a", ".upload-of-another", "other"):
        (spool / name).touch()
        os.utime(spool / name, (1, 1))

    async def begin() -> None:
        async with to_bucket.router.lifespan_context(to_bucket):
            pass

    asyncio.run(begin())
    assert {path.name for path in spool.iterdir()} == {".upload-of-another", "other"}


def test_a_full_disk_of_temporary_files_is_told(to_bucket: FastAPI, spool: Path) -> None:
    large = CSV + CSV.split(b"\n", 1)[1] * 20_000
    with files_of_at_most(1_000_000):
        answer = upload(to_bucket, *cut(form(part(large)), range(0, len(large), 65_536)))
    assert answer.status == 503
    assert answer.json()["detail"].startswith(f"The folder {spool} cannot be written to (File too")
    assert [*spool.iterdir()] == []


# What was left


def test_only_what_is_a_day_old_is_swept(folder: Path) -> None:
    folder.mkdir()
    now = time.time()
    for name, age in {
        f"{UNFINISHED}old": 86_460,
        f"{UNFINISHED}new": 86_340,
        f"{UNFINISHED}now": 0,
        ".other": 10**8,
        "old.csv": 10**8,
        "upload-old": 10**8,
    }.items():
        (folder / name).touch()
        os.utime(folder / name, (now - age, now - age))
    sweep(folder)
    assert {file.name for file in folder.iterdir()} == {
        *(f"{UNFINISHED}new", f"{UNFINISHED}now", ".other", "old.csv", "upload-old")
    }


def test_a_file_that_vanishes_does_not_end_the_sweep(folder: Path) -> None:
    folder.mkdir()
    for name in "abc":
        (folder / f"{UNFINISHED}{name}").touch()
        os.utime(folder / f"{UNFINISHED}{name}", (1, 1))
        (folder / f"{UNFINISHED}{name}0").symlink_to(folder / "gone")
    sweep(folder)
    assert all(file.is_symlink() for file in folder.iterdir())


KILLED = """
import asyncio, sys
from pathlib import Path
from stock_assets.api.uploads import receive, unfinished
from stock_assets.files import Folder

async def body():
    yield sys.stdin.buffer.read(int(sys.argv[2]))
    print("half", flush=True)
    await asyncio.Event().wait()

with unfinished(Folder(Path(sys.argv[1]))) as received:
    asyncio.run(receive(received, sys.argv[3], body(), 10**9))
"""


def test_a_process_that_is_killed_leaves_nothing_that_is_seen(folder: Path) -> None:
    half = part(CSV + CSV.split(b"\n", 1)[1] * 2_000)[:-200]
    command = [sys.executable, "-c", KILLED, str(folder), str(len(half)), FORM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(half)
        process.stdin.close()
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = folder.iterdir()
    assert left.stat().st_size > LOOK
    assert look(folder) == {}
    os.utime(left, (1, 1))
    sweep(folder)
    assert list(folder.iterdir()) == []
