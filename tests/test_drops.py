"""The drop folder: only complete files are taken, and the same bytes are one drop."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from stock_assets.database import Database
from stock_assets.drops import complete, register
from stock_assets.drops import look as look_at
from stock_assets.files import Files, Folder, Place, files_at
from stock_assets.settings import Settings
from stock_assets.storage import Store
from tests.conftest import names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "drops"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, content: bytes = b"x", *, second: int = 1) -> Path:
    """Write a file that was changed at that second."""
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (second, second))
    return path


def look(folder: Path) -> dict[str, list[int]]:
    return look_at(Folder(folder))


# Looking


def test_files_are_seen_with_size_and_time(folder: Path) -> None:
    put(folder, "prices.csv", b"123", second=7)
    assert look(folder) == {"prices.csv": [3, 7_000_000_000]}


def test_the_oldest_file_comes_first(folder: Path) -> None:
    for name, second in [("a.csv", 3), ("c.csv", 1), ("d.csv", 2), ("b.csv", 2)]:
        put(folder, name, second=second)
    assert list(look(folder)) == ["c.csv", "b.csv", "d.csv", "a.csv"]


@pytest.mark.parametrize(
    "name", ["prices.csv", "prices.CSV", "prices.csv.gz", "prices", "p.tmp.csv"]
)
def test_a_file_of_any_ending_is_seen(folder: Path, name: str) -> None:
    put(folder, name)
    assert list(look(folder)) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *(".prices.csv", ".DS_Store", "prices.csv~", "prices.csv.part", "prices.tmp", "P.TMP"),
        *("prices.csv.crdownload", "prices.partial", "prices.filepart"),
    ],
)
def test_hidden_and_unfinished_files_are_passed_over(folder: Path, name: str) -> None:
    put(folder, name)
    assert look(folder) == {}


def test_a_folder_is_passed_over(folder: Path) -> None:
    (folder / "old.csv").mkdir()
    put(folder / "old.csv", "prices.csv")
    assert look(folder) == {}


def test_a_link_to_nothing_is_passed_over(folder: Path) -> None:
    (folder / "gone.csv").symlink_to(folder / "nothing.csv")
    assert look(folder) == {}


def test_a_link_to_a_file_is_a_file(folder: Path, tmp_path: Path) -> None:
    (folder / "prices.csv").symlink_to(put(tmp_path, "elsewhere.csv", b"12345"))
    assert look(folder)["prices.csv"][0] == 5


# Completeness


def test_a_file_is_complete_at_the_second_look(folder: Path) -> None:
    put(folder, "prices.csv")
    first = look(folder)
    assert complete(first, {}) == []
    assert complete(look(folder), first) == ["prices.csv"]


def test_a_file_that_grows_is_not_complete(folder: Path) -> None:
    path = put(folder, "prices.csv", b"half")
    first = look(folder)
    with path.open("ab") as file:
        file.write(b" and the rest")
    second = look(folder)
    assert complete(second, first) == []
    assert complete(look(folder), second) == ["prices.csv"]


def test_a_file_rewritten_in_the_same_size_is_not_complete(folder: Path) -> None:
    put(folder, "prices.csv", b"old", second=1)
    first = look(folder)
    put(folder, "prices.csv", b"new", second=2)
    assert complete(look(folder), first) == []


def test_a_file_is_seen_under_the_name_it_is_renamed_to(folder: Path) -> None:
    path = put(folder, "prices.csv.part")
    first = look(folder)
    path.rename(folder / "prices.csv")
    second = look(folder)
    assert (first, complete(second, first)) == ({}, [])
    assert complete(look(folder), second) == ["prices.csv"]


def test_a_file_that_vanished_is_not_complete(folder: Path) -> None:
    path = put(folder, "prices.csv")
    first = look(folder)
    path.unlink()
    assert complete(look(folder), first) == []


def test_complete_files_keep_their_order(folder: Path) -> None:
    for name, second in [("a.csv", 3), ("b.csv", 1), ("c.csv", 2)]:
        put(folder, name, second=second)
    first = look(folder)
    put(folder, "c.csv", b"longer", second=2)
    assert complete(look(folder), first) == ["b.csv", "a.csv"]


# Registration


@pytest.fixture
def drops(place: Place) -> Files:
    """The drop folder, of each kind in turn."""
    return files_at(Settings(files=place).drop_folder)


@pytest.fixture
def store(place: Place) -> Store:
    """A store of the same kind."""
    return Store(files_at(Settings(files=place).store))


def test_a_registered_file_is_kept_and_noted(
    drops: Files, store: Store, database: Database
) -> None:
    drops.write_each([("prices 2019.csv", b"ticker,...")])
    drop = register(drops, "prices 2019.csv", store, database)
    sha256 = hashlib.sha256(b"ticker,...").hexdigest()
    assert (drop.key, drop.sha256) == (f"prices-2019-{sha256[:32]}", sha256)
    assert (drop.file_name, drop.size, drop.status) == ("prices 2019.csv", 10, "registered")
    assert store.read_drop(drop.key, at_most=100) == b"ticker,..."
    assert names(drops) == ["prices 2019.csv"]
    assert database.drop(drop.key) == drop


def test_the_same_bytes_under_another_name_are_the_same_drop(
    drops: Files, store: Store, database: Database
) -> None:
    dropped = ["prices.csv", "prices.csv", "copy of prices.csv"]
    drops.write_each((name, b"same") for name in dropped)
    registered = [register(drops, name, store, database) for name in dropped]
    assert registered == [registered[0]] * 3
    assert registered[0].file_name == "prices.csv"
    assert names(store.files) == [f"drops/{registered[0].key}"]


def test_two_who_register_the_same_bytes_at_once_do_not_meet(
    drops: Files, store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops.write_each((name, b"same") for name in ("prices.csv", "copy.csv"))
    first = register(drops, "prices.csv", store, database)
    note = Database.register_drop

    def note_after_another(self: Database, *row: Any) -> Any:
        monkeypatch.setattr(Database, "register_drop", note)
        register(drops, "copy.csv", store, database)
        return note(self, *row)

    monkeypatch.setattr(Database, "register_drop", note_after_another)
    assert register(drops, "copy.csv", store, database) == first
    assert names(store.files) == [f"drops/{first.key}"]


def test_other_bytes_under_the_same_name_are_another_drop(
    drops: Files, store: Store, database: Database
) -> None:
    registered = []
    for content in (b"one", b"two"):
        drops.write_each([("prices.csv", content)])
        registered.append(register(drops, "prices.csv", store, database))
    one, two = registered
    assert one.key != two.key
    assert two.id > one.id


def test_an_odd_name_is_noted_as_it_is(drops: Files, store: Store, database: Database) -> None:
    name = "prïces €'数据'; --%s.csv"
    drops.write_each([(name, b"x")])
    drop = register(drops, name, store, database)
    assert database.drop(drop.key).file_name == name


def test_a_file_that_vanished_before_registration_is_an_os_error(
    drops: Files, store: Store, database: Database
) -> None:
    with pytest.raises(OSError, match=r"gone\.csv"):
        register(drops, "gone.csv", store, database)


def test_a_name_that_is_no_text_is_noted_with_a_mark(
    folder: Path, store: Store, database: Database
) -> None:
    try:
        (folder / os.fsdecode(b"pr\xfcfung.csv")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system refuses such names itself")
    (name,) = look(folder)
    drop = register(Folder(folder), name, store, database)
    assert drop.file_name == "pr\N{REPLACEMENT CHARACTER}fung.csv"
    assert store.read_drop(drop.key, at_most=10) == b"x"
