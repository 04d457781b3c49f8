"""Files in a folder and in a bucket: they appear whole, and what goes wrong is told."""

import hashlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stock_assets.drops import complete, look
from stock_assets.errors import SetupError
from stock_assets.files import Bucket, Files, Place, files_at, spooled
from tests.conftest import names, s3fs

LARGE = 20_000_000  # more than is sent at once


@pytest.fixture
def files(place: Place) -> Files:
    return files_at(place)


def publish(files: Files, name: str, content: bytes) -> None:
    """Have a file appear, by way of the spool."""
    with spooled(files) as path:
        path.write_bytes(content)
        files.publish(path, name)


# What is there


def test_files_are_told_by_size_and_time(files: Files) -> None:
    files.write_each([("a.csv", b"123"), ("b.csv", b"")])
    told = files.states()
    assert {name: state.size for name, state in told.items()} == {"a.csv": 3, "b.csv": 0}
    assert all(abs(state.changed_ns / 1e9 - time.time()) < 5 for state in told.values())
    assert files.changed_ns("a.csv") == told["a.csv"].changed_ns


def test_nothing_is_told_of_an_empty_place(files: Files) -> None:
    assert files.states() == {}
    assert files.changed_ns("a.csv") is None
    assert [*files.read_each(["a.csv"])] == []


def test_what_lies_further_below_is_not_told(files: Files) -> None:
    files.write_each([("old/a.csv", b"1"), ("old/older/b.csv", b"2"), ("c.csv", b"3")])
    assert list(files.states()) == ["c.csv"]
    assert [*files.read_each(["old/older/b.csv", "old/a.csv"])] == [b"2", b"1"]


def test_folders_of_a_console_are_no_files(bucket: str) -> None:
    """It makes an object for each, of no bytes and with a slash at its end."""
    files = files_at(f"{bucket}/in")
    for key in ("in/", "in/old/"):
        s3fs().call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"")
    assert files.states() == {}
    files.write_each([("a.csv", b"1")])
    assert list(files.states()) == ["a.csv"]


def test_neighbours_whose_names_begin_alike_are_not_told(bucket: str) -> None:
    for prefix in ("in", "in-old", "inn"):
        files_at(f"{bucket}/{prefix}").write_each([(f"{prefix}.csv", b"1")])
    assert list(files_at(f"{bucket}/in").states()) == ["in.csv"]


def test_an_object_of_the_name_of_the_folder_is_no_file_in_it(bucket: str) -> None:
    files_at(bucket).write_each([("in", b"1")])
    assert files_at(f"{bucket}/in").states() == {}


def test_a_bucket_without_a_prefix_is_a_place(bucket: str) -> None:
    files = files_at(bucket)
    assert files.states() == {}
    files.write_each([("a.csv", b"1"), ("in/b.csv", b"2")])
    assert list(files.states()) == ["a.csv"]
    assert files.url("a.csv") == f"{bucket}/a.csv"


def test_what_another_process_does_is_seen_at_once(files: Files, place: Place) -> None:
    files.write_each([("old.csv", b"x")])
    assert list(files.states()) == ["old.csv"]
    script = (
        "import sys; from pathlib import Path; from stock_assets.files import files_at; place, url"
        " = sys.argv[1:]; files_at(place if url else Path(place)).write_each([('a.csv', b'x')])"
    )
    is_url = "yes" if isinstance(place, str) else ""
    subprocess.run([sys.executable, "-c", script, str(place), is_url], check=True)
    assert sorted(files.states()) == ["a.csv", "old.csv"]


def test_an_object_that_is_put_again_is_a_new_look(bucket: str) -> None:
    files = files_at(bucket)
    files.write_each([("a.csv", b"one")])
    first = look(files)
    assert complete(look(files), first) == ["a.csv"]
    files.write_each([("a.csv", b"three")])
    second = look(files)
    assert complete(second, first) == []
    assert complete(look(files), second) == ["a.csv"]


def test_an_object_of_the_same_size_that_is_put_again_is_a_new_look(bucket: str) -> None:
    files = files_at(bucket)
    files.write_each([("a.csv", b"one")])
    first = look(files)
    time.sleep(1.1)  # a store tells seconds; between two looks there are five
    files.write_each([("a.csv", b"two")])
    assert complete(look(files), first) == []


# Reading and writing


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * (LARGE // 256)])
@pytest.mark.parametrize("write", [publish, lambda files, *item: files.write_each([item])])
def test_contents_come_back(
    files: Files, content: bytes, write: Callable[[Files, str, bytes], None]
) -> None:
    write(files, "a", content)
    assert [*files.read_each(["a"])] == [content]
    with files.open("a") as file:
        assert file.read() == content
    with files.open("a") as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(content).digest()


def test_contents_come_in_order_without_those_that_are_not_there(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stock_assets.files.AT_ONCE", 5)
    expected = [(f"{number:03}", str(number).encode()) for number in range(12)]
    files.write_each(iter(expected))
    asked = [name for name, _ in reversed(expected)]
    found = [*files.read_each(["none", *asked[:5], "none", *asked[5:]])]
    assert found == [content for _, content in reversed(expected)]


def test_a_file_is_replaced(files: Files) -> None:
    for content in (b"old", b"new"):
        publish(files, "a", content)
        assert [*files.read_each(["a"])] == [content]
    files.rename("a", "b")
    assert names(files) == ["b"]


def test_nothing_is_left_where_a_file_was_until_it_was_published(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    publish(files, "a", b"x")
    assert [path for path in files.spool().iterdir() if path.name != "a"] == []


def test_a_file_that_is_not_there_is_told_by_its_name(files: Files) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        files.open("gone.csv")


def test_an_object_that_is_replaced_while_it_is_read_is_no_mixture(bucket: str) -> None:
    files = files_at(bucket)
    files.write_each([("a", b"1" * LARGE)])
    with files.open("a") as file:
        assert file.read(10) == b"1" * 10
        files.write_each([("a", b"2" * LARGE)])
        with pytest.raises(OSError, match="no longer exists"):
            file.read()


COPIED = """
import sys, tracemalloc
from pathlib import Path
from stock_assets.files import files_at
from stock_assets.storage import Store
store, folder = Store(files_at(sys.argv[1])), files_at(Path(sys.argv[2]))
store.keep_drop(folder, "small")  # all is loaded
tracemalloc.start()
kept = store.keep_drop(folder, "large")
assert store.drop_digest(kept.key) == kept.sha256
print(tracemalloc.get_traced_memory()[1])
"""


def test_a_large_object_is_never_whole_in_memory(bucket: str, tmp_path: Path) -> None:
    for name, size in (("small", 1), ("large", 2 * LARGE)):
        (tmp_path / name).write_bytes(bytes(size))
    command = [sys.executable, "-c", COPIED, bucket, str(tmp_path)]  # the server is in this process
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(told.stdout) < 35_000_000


# Whole or not at all

HALF = """
import sys, time
from pathlib import Path
from stock_assets.files import files_at, spooled
place, url, large = sys.argv[1:]
files = files_at(place if url else Path(place))
with spooled(files) as path:
    path.write_bytes(b"new" * int(large))
    print("writes", flush=True)
    files.publish(path, "a")
    files.write_each([("a", b"new" * int(large))] * 1000)
"""


def test_a_process_that_is_killed_leaves_no_half_file(files: Files, place: Place) -> None:
    files.write_each([("a", b"old")])
    is_url = "yes" if isinstance(place, str) else ""
    wholes = {b"old", b"new" * LARGE}
    for _ in range(2):
        command = [sys.executable, "-c", HALF, str(place), is_url, str(LARGE)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"writes\n"
            time.sleep(0.3)  # some of it is written
            process.send_signal(signal.SIGKILL)
        (content,) = files.read_each(["a"])
        assert content in wholes
    assert list(look(files)) == ["a"]


class Torn(io.BytesIO):
    """A file whose fourth block cannot be read."""

    blocks = 0

    def read(self, size: int | None = -1) -> bytes:
        """The next block, but for the fourth."""
        self.blocks += 1
        if self.blocks == 4:
            raise OSError("the disk is gone")
        return super().read(size)


def test_an_error_in_the_middle_leaves_the_old_object(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_at(bucket)
    files.write_each([("a", b"old")])
    monkeypatch.setattr("s3fs.core.open", lambda *_: Torn(b"n" * 2 * LARGE), raising=False)
    with pytest.raises(SetupError, match="the disk is gone"):
        publish(files, "a", b"n" * 2 * LARGE)
    assert [*files.read_each(["a"])] == [b"old"]
    assert s3fs().list_multipart_uploads(bucket.removeprefix("s3://")) == []


def failing() -> Iterator[tuple[str, bytes]]:
    yield "a", b"new"
    raise ValueError("no bytes")


def test_an_error_between_two_files_leaves_whole_ones(files: Files) -> None:
    files.write_each([("a", b"old"), ("b", b"old")])
    with pytest.raises(ValueError, match="no bytes"):
        files.write_each(failing())
    assert names(files) == ["a", "b"]
    assert {*files.read_each(["a", "b"])} <= {b"old", b"new"}


# What goes wrong with a bucket


@pytest.mark.parametrize(
    "ask",
    [
        lambda files: files.make(),
        lambda files: files.states(),
        lambda files: files.open("a"),
        lambda files: [*files.read_each(["a"])],
        lambda files: files.write_each([("a", b"x")]),
        lambda files: publish(files, "a", b"x"),
    ],
    ids=["make", "states", "open", "read_each", "write_each", "publish"],
)
@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_is_told(ask: Callable[[Files], Any]) -> None:
    with pytest.raises(SetupError) as error:
        ask(files_at("s3://nowhere/in"))
    assert str(error.value) == (
        "There is no bucket 'nowhere', which s3://nowhere/in names: make it, or mend "
        "STOCK_ASSETS_FILES or STOCK_ASSETS_DROPS."
    )


ASKED: dict[str, Callable[[Files], Any]] = {
    "make": lambda files: files.make(),
    "states": lambda files: files.states(),
    "changed_ns": lambda files: files.changed_ns("a"),
    "open": lambda files: files.open("a"),
    "read_each": lambda files: [*files.read_each(["a"])],
    "write_each": lambda files: files.write_each([("a", b"x")]),
    "publish": lambda files: publish(files, "a", b"x"),
    "rename": lambda files: files.rename("a", "b"),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.usefixtures("connections")
def test_a_bucket_that_lets_nobody_in_is_told(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Callable[[Files], Any]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SetupError) as error:
        ask(files_at(bucket))
    if ask is not ASKED["make"]:  # s3fs does not say why
        assert str(error.value) == (
            f"{bucket} does not answer as it should (Unable to locate credentials). Expected a "
            "bucket that may be listed, read and written, with what the environment says: "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL."
        )


@pytest.mark.usefixtures("connections", "s3")
def test_a_store_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        SetupError, match=r"s3://any does not answer as it should \(Could not connect"
    ):
        files_at("s3://any").states()


@pytest.mark.parametrize(
    ("address", "extra"),
    [("s3://bucket", "s3"), ("gs://bucket/in", "gcs"), ("abfs://container", "azure")],
)
def test_a_package_that_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, address: str, extra: str
) -> None:
    pytest.importorskip("fsspec.registry", reason="fsspec is not installed")
    for name in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, name, None)
    loaded = sys.modules["fsspec.registry"]  # whose name in the package is that of a table
    monkeypatch.setattr(loaded, "registry", {})
    with pytest.raises(SetupError) as error:
        Bucket(address).states()
    assert str(error.value) == (
        f"{address} needs a package that is not installed: pip install 'stock-assets[{extra}]'"
    )


def test_an_object_that_may_not_be_read_is_told_by_its_name(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are still taken: it is an error of that file alone."""
    files = files_at(bucket)
    files.write_each([("a.csv", b"x")])

    async def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr("s3fs.S3FileSystem._call_s3", forbidden)
    with pytest.raises(PermissionError, match=r"Permission denied: '\S+/a\.csv'"):
        files.open("a.csv")
