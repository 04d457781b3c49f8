"""The store: bytes kept as they came, safe names, and never half a file."""

import hashlib
import re
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.features import price_features
from stock_assets.storage import KeptFile, Store, _slug
from tests.conftest import make_prices

KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?-[0-9a-f]{12}")
ODD_NAMES = [
    "prices 2019 (1).csv",
    "prices.csv.gz",
    "prices",
    "prïces €.csv",
    "数据.csv",
    "..",
    "..csv",
    ".csv",
    "-rf.csv",
    "a\nb.csv",
    "a%2Fb;$(x)'\".csv",
    "a" * 250 + ".csv",
    "CON",
]


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


# Drops


@pytest.mark.parametrize(
    "content", [b"", b"ticker\r\n\0\xff", b"x" * 3_000_000], ids=["empty", "any bytes", "large"]
)
def test_a_drop_is_kept_byte_for_byte(store: Store, tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path, "prices.csv", content)
    kept = store.keep_drop(file)
    sha256 = hashlib.sha256(content).hexdigest()
    assert kept == KeptFile(f"prices-{sha256[:12]}", sha256, len(content))
    assert store.drop_path(kept.key).read_bytes() == file.read_bytes() == content
    assert store.read_drop(kept.key, at_most=len(content) + 1) == content
    assert store.drop_digest(kept.key) == sha256


def test_no_more_of_a_drop_is_read_than_asked_for(store: Store, tmp_path: Path) -> None:
    kept = store.keep_drop(write(tmp_path, "prices.csv", b"0123456789"))
    assert store.read_drop(kept.key, at_most=4) == b"0123"


def test_the_same_file_is_kept_once(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path, "prices.csv", b"same")
    assert store.keep_drop(file) == store.keep_drop(file)
    assert len(files(store.root)) == 1


def test_another_version_of_a_file_is_kept_beside_it(store: Store, tmp_path: Path) -> None:
    keys = {store.keep_drop(write(tmp_path, "prices.csv", text)).key for text in (b"one", b"two")}
    assert files(store.root) == sorted(f"drops/{key}" for key in keys)
    assert len(keys) == 2


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if name != ".."])
def test_a_file_of_any_name_is_kept_inside_the_store(
    store: Store, tmp_path: Path, name: str
) -> None:
    kept = store.keep_drop(write(tmp_path / "in", name, b"x"))
    assert KEY.fullmatch(kept.key)
    assert files(store.root) == [f"drops/{kept.key}"]
    assert files(tmp_path / "in") == [name]


@given(st.text() | st.sampled_from(ODD_NAMES))
@settings(deadline=None, max_examples=100)
def test_a_key_is_safe_whatever_the_name(name: str) -> None:
    key = f"{_slug(name)}-{'0' * 12}"
    assert KEY.fullmatch(key)
    assert len(key) <= 64


def test_endings_of_a_csv_are_no_part_of_the_key(store: Store, tmp_path: Path) -> None:
    names = ["prices.csv", "prices.csv.gz", "prices"]
    assert len({store.keep_drop(write(tmp_path, name, b"x")).key for name in names}) == 1


def test_a_drop_that_cannot_be_kept_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path, "prices.csv", b"x")
    in_the_way = store.drop_path(store.keep_drop(file).key)
    in_the_way.unlink()
    in_the_way.mkdir()
    with pytest.raises(OSError, match="directory"):
        store.keep_drop(file)
    assert files(store.root) == []


def test_a_drop_that_cannot_be_read_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.keep_drop(tmp_path / "gone.csv")
    assert not store.root.exists()


# Features


def test_features_come_back_as_they_were(store: Store) -> None:
    tables = {
        ticker: price_features(make_prices(ticker, days))
        for ticker, days in [("A", 1), ("BRK.B", 40)]
    }
    for ticker, table in tables.items():
        store.write_features(ticker, table)
    found = store.read_features(["BRK.B", "A"])
    assert list(found) == ["BRK.B", "A"]
    for ticker, table in tables.items():
        pd.testing.assert_frame_equal(found[ticker], table, check_exact=True)


def test_tickers_without_features_are_left_out(store: Store) -> None:
    store.write_features("A", price_features(make_prices("A", 3)))
    assert list(store.read_features(["Z", "A"])) == ["A"]
    assert store.read_features([]) == {}


def test_features_are_replaced(store: Store) -> None:
    for days in (5, 3):
        table = price_features(make_prices("A", days))
        store.write_features("A", table)
    pd.testing.assert_frame_equal(store.read_features(["A"])["A"], table)
    assert files(store.root) == ["features/A.parquet"]


def test_an_error_while_writing_features_leaves_the_old_ones(store: Store) -> None:
    table = price_features(make_prices("A", 5))
    store.write_features("A", table)
    with pytest.raises(Exception, match="close"):
        store.write_features("A", table.assign(close=cast(Any, ["1", 2, None, b"3", object()])))
    pd.testing.assert_frame_equal(store.read_features(["A"])["A"], table)
    assert files(store.root) == ["features/A.parquet"]


# Models


def test_models_come_back_as_they_were(store: Store) -> None:
    path = store.write_models("BRK.B", "0123456789ab", b"\0artifact")
    assert path == "models/BRK.B/0123456789ab.skops"
    assert store.read_models(path) == b"\0artifact"


def test_an_error_while_writing_models_leaves_the_old_ones(store: Store) -> None:
    path = store.write_models("A", "1", b"old")
    with pytest.raises(TypeError):
        store.write_models("A", "1", cast(Any, "no bytes"))
    assert store.read_models(path) == b"old"
    assert files(store.root) == [path]


def test_an_error_before_the_first_file_leaves_none(store: Store) -> None:
    with pytest.raises(TypeError):
        store.write_models("A", "1", cast(Any, "no bytes"))
    assert files(store.root) == []
