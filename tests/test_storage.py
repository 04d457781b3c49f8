"""The store: bytes kept as they came, safe names, and never half a file."""

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.errors import SetupError
from stock_assets.features import price_features
from stock_assets.files import UNFINISHED, Bucket, Files, Folder, Place, files_at
from stock_assets.names import drop_key
from stock_assets.settings import Settings
from stock_assets.storage import KeptFile, Store
from tests.conftest import make_prices, names

KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?-[0-9a-f]{32}")
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


@pytest.fixture
def at(place: Place) -> Settings:
    """Settings by which all files are in one place."""
    return Settings(files=place)


@pytest.fixture
def store(at: Settings) -> Store:
    return Store(files_at(at.store))


@pytest.fixture
def drops(at: Settings) -> Files:
    """Where files are before they are kept."""
    return files_at(at.drop_folder)


def keep(store: Store, drops: Files, name: str, content: bytes) -> KeptFile:
    """Keep a file of these bytes."""
    drops.write_each([(name, content)])
    return store.keep_drop(drops, name)


# Drops

ANY = pytest.mark.parametrize(
    "content", [b"", b"ticker\r\n\0\xff", b"x" * 3_000_000], ids=["empty", "any bytes", "large"]
)


@ANY
def test_a_drop_is_kept_byte_for_byte(store: Store, drops: Files, content: bytes) -> None:
    kept = keep(store, drops, "prices.csv", content)
    sha256 = hashlib.sha256(content).hexdigest()
    assert kept == KeptFile(f"prices-{sha256[:32]}", sha256, len(content))
    assert [*store.files.read_each([f"drops/{kept.key}"])] == [content]
    assert [*drops.read_each(["prices.csv"])] == [content]
    assert store.read_drop(kept.key, at_most=len(content) + 1) == content
    assert store.drop_digest(kept.key) == sha256
    assert names(store.files) == [f"drops/{kept.key}"]


@ANY
@pytest.mark.parametrize("is_into", [True, False], ids=["into a bucket", "out of a bucket"])
def test_a_drop_is_kept_in_a_place_of_another_kind(
    tmp_path: Path, bucket: str, content: bytes, *, is_into: bool
) -> None:
    outside, inside = files_at(tmp_path / "place"), files_at(bucket)
    drops, store = (outside, Store(inside)) if is_into else (inside, Store(outside))
    kept = keep(store, drops, "prices.csv", content)
    assert store.read_drop(kept.key, at_most=len(content) + 1) == content
    assert store.drop_digest(kept.key) == kept.sha256 == hashlib.sha256(content).hexdigest()


def test_no_more_of_a_drop_is_read_than_asked_for(store: Store, drops: Files) -> None:
    kept = keep(store, drops, "prices.csv", b"0123456789")
    assert store.read_drop(kept.key, at_most=4) == b"0123"


def test_the_same_file_is_kept_once(store: Store, drops: Files) -> None:
    assert keep(store, drops, "prices.csv", b"same") == keep(store, drops, "prices.csv", b"same")
    assert len(names(store.files)) == 1


def test_another_version_of_a_file_is_kept_beside_it(store: Store, drops: Files) -> None:
    keys = {keep(store, drops, "prices.csv", text).key for text in (b"one", b"two")}
    assert names(store.files) == sorted(f"drops/{key}" for key in keys)
    assert len(keys) == 2


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if name != ".."])
def test_a_file_of_any_name_is_kept_inside_the_store(store: Store, drops: Files, name: str) -> None:
    if "\n" in name and isinstance(store.files, Bucket):
        pytest.skip("s3fs takes no name with a line break")
    kept = keep(store, drops, name, b"x")
    assert KEY.fullmatch(kept.key)
    assert names(store.files) == [f"drops/{kept.key}"]
    assert names(drops) == [name]


def test_a_drop_may_get_another_key(store: Store, drops: Files) -> None:
    key = keep(store, drops, "prices.csv", b"x").key
    for new in (key, "other"):
        store.rename_drop(key, new)
        assert store.read_drop(new, at_most=2) == b"x"
        assert names(store.files) == [f"drops/{new}"]


def test_a_drop_has_an_address(store: Store, at: Settings) -> None:
    root = at.store.as_uri() if isinstance(at.store, Path) else at.store
    assert store.drop_url("prices-0123") == f"{root}/drops/prices-0123"


@given(st.text() | st.sampled_from(ODD_NAMES))
@settings(deadline=None, max_examples=100)
def test_a_key_is_safe_whatever_the_name(name: str) -> None:
    key = drop_key(name, "0" * 64)
    assert KEY.fullmatch(key)
    assert len(key) <= 64


def test_endings_of_a_csv_are_no_part_of_the_key(store: Store, drops: Files) -> None:
    endings = ["prices.csv", "prices.csv.gz", "prices"]
    assert len({keep(store, drops, name, b"x").key for name in endings}) == 1


def test_a_drop_that_cannot_be_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    store, drops = Store(files_at(tmp_path / "store")), files_at(tmp_path)
    in_the_way = tmp_path / "store" / "drops" / keep(store, drops, "prices.csv", b"x").key
    in_the_way.unlink()
    in_the_way.mkdir()
    with pytest.raises(OSError, match="directory"):
        store.keep_drop(drops, "prices.csv")
    assert names(store.files) == []


def test_a_drop_that_cannot_be_read_leaves_nothing_behind(store: Store, drops: Files) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        store.keep_drop(drops, "gone.csv")
    assert names(store.files) == []


class Rewritten(Folder):
    """A folder in which somebody writes to a file while it is read."""

    def open(self, name: str) -> io.BufferedReader:
        """The file, in which another line stands from then on."""
        file = super().open(name)
        (self.root / name).write_bytes(b"newer and longer")
        return file


def test_a_drop_that_is_written_to_while_it_is_read_is_not_kept(tmp_path: Path) -> None:
    store, drops = Store(files_at(tmp_path / "store")), Rewritten(tmp_path / "drops")
    drops.write_each([("prices.csv", b"old")])
    os.utime(drops.root / "prices.csv", (1, 1))
    with pytest.raises(OSError, match=r"It is written to at this moment: '\S+/prices\.csv'"):
        store.keep_drop(drops, "prices.csv")
    assert names(store.files) == []
    kept = store.keep_drop(Folder(drops.root), "prices.csv")
    assert store.read_drop(kept.key, at_most=100) == b"newer and longer"


@pytest.mark.parametrize("read", [lambda s: s.read_drop("x", 1), lambda s: s.drop_digest("x")])
def test_a_drop_that_is_gone_is_told_with_what_to_do(
    store: Store, read: Callable[[Store], object]
) -> None:
    with pytest.raises(SetupError) as error:
        read(store)
    assert str(error.value) == (
        f"The database knows of drops/x, but {store.drop_url('x')} is not there: "
        "put it back, or drop the file again."
    )


# Features


def features(*tickers: tuple[str, int]) -> pd.DataFrame:
    """Features of tickers, as many days of each as said, with a column of every kind."""
    prices = pd.concat([make_prices(ticker, days) for ticker, days in tickers], ignore_index=True)
    return price_features(prices).assign(
        sector=prices["sector"],
        price_revision=range(len(prices)),
        is_last=~prices["ticker"].duplicated(keep="last"),
        narrow=prices["close"].astype("float32"),
        missing=prices["close"].where(prices["close"] > prices["open"]),
    )


def test_features_come_back_as_they_were(store: Store) -> None:
    table = features(("A", 1), ("AA", 3), ("BRK.B", 40))
    store.write_features(table)
    assert names(store.files) == [f"features/{ticker}.parquet" for ticker in ("A", "AA", "BRK.B")]
    found = store.read_features(ticker for ticker in ["BRK.B", "A", "AA", "A"])
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    of_one = table[table["ticker"] == "BRK.B"].reset_index(drop=True)
    pd.testing.assert_frame_equal(store.read_features(["BRK.B"]), of_one, check_exact=True)


def test_tickers_may_come_in_the_order_of_another_alphabet(store: Store) -> None:
    """As a database sorts them that does not look at dots."""
    store.write_features(features(("BRKA", 2), ("BRK.B", 3)))
    found = store.read_features(["BRKA", "BRK.B"])
    assert found["ticker"].tolist() == ["BRK.B"] * 3 + ["BRKA"] * 2


def test_any_index_of_features_is_dropped(store: Store) -> None:
    table = features(("A", 3), ("B", 2))
    store.write_features(table.set_index(pd.Index([7, 7, 3, 1, 0])))
    pd.testing.assert_frame_equal(store.read_features(["A", "B"]), table)


def test_tickers_without_features_are_left_out(store: Store) -> None:
    table = features(("A", 3))
    store.write_features(table)
    pd.testing.assert_frame_equal(store.read_features(["Z", "A"]), table)
    for nothing in (store.read_features([]), store.read_features(["Z"])):
        assert nothing.empty
        assert list(nothing) == []


def test_features_are_replaced(store: Store) -> None:
    store.write_features(features(("A", 5), ("B", 5)))
    store.write_features(features(("A", 3)))
    found = store.read_features(["A", "B"])
    assert found["ticker"].tolist() == ["A"] * 3 + ["B"] * 5
    assert names(store.files) == ["features/A.parquet", "features/B.parquet"]


def test_many_features_come_back_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are on their way together."""
    monkeypatch.setattr("stock_assets.files.AT_ONCE", 5)
    table = features(*((f"T{number:03}", 2) for number in range(13)))
    store.write_features(table)
    found = store.read_features(["NONE", *table["ticker"].unique()[::-1]])
    pd.testing.assert_frame_equal(found, table, check_exact=True)


def test_features_lacking_a_column_miss_its_values(store: Store) -> None:
    store.write_features(features(("A", 2)).drop(columns="volatility"))
    store.write_features(features(("B", 2)))
    found = store.read_features(["A", "B"])
    expected = pd.concat([features(("A", 2)), features(("B", 2))], ignore_index=True)
    expected.loc[expected["ticker"] == "A", "volatility"] = None
    pd.testing.assert_frame_equal(found[expected.columns], expected)


def test_features_written_by_pandas_are_read(store: Store) -> None:
    table = features(("A", 3))
    store.write_features(table)
    written = table.to_parquet(index=False)
    store.files.write_each([("features/A.parquet", written)])
    pd.testing.assert_frame_equal(store.read_features(["A"]), table)


@pytest.mark.parametrize("breaks", ["write_table", "from_pandas"])
def test_an_error_while_writing_features_leaves_the_old_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    table = features(("A", 5))
    store.write_features(table)
    bad = features(("A", 3))
    if breaks == "from_pandas":
        bad["close"] = cast(Any, ["1", 2, None])
    else:
        monkeypatch.setattr(pq, "write_table", write_half)
    with pytest.raises((OSError, pa.ArrowInvalid, pa.ArrowTypeError)):
        store.write_features(bad)
    pd.testing.assert_frame_equal(store.read_features(["A"]), table)
    assert names(store.files) == ["features/A.parquet"]


def write_half(_: pa.Table, file: pa.BufferOutputStream, **__: object) -> None:
    file.write(b"PAR1")
    raise OSError("no space left")


# Artifacts


def test_artifacts_come_back_as_they_were(store: Store) -> None:
    path = store.write_artifact("BRK.B", "0123456789ab.npz", b"\0artifact")
    assert path == "models/BRK.B/0123456789ab.npz"
    assert store.read_artifact(path) == b"\0artifact"


def test_an_artifact_is_replaced(store: Store) -> None:
    for content in (b"old", b"new"):
        path = store.write_artifact("A", "1", content)
        assert store.read_artifact(path) == content
    assert names(store.files) == [path]


def test_an_artifact_that_is_gone_is_told_with_what_to_do(store: Store) -> None:
    with pytest.raises(
        SetupError, match=r"knows of models/x, but \S+/models/x is not there: .*train"
    ):
        store.read_artifact("models/x")


# What killed processes left


@pytest.mark.parametrize("folder", ["drops", "features", "models/market", "models/tickers"])
def test_what_was_left_unfinished_is_swept_once_it_is_a_day_old(
    store: Store, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # by which files go to a bucket
    store.files.write_each([(f"{folder}/whole", b"x")])
    spool = store.files.spool(folder)
    for name in ("old", "new"):
        (spool / f"{UNFINISHED}{name}").touch()
    os.utime(spool / f"{UNFINISHED}old", (1, 1))
    store.sweep()
    assert [path.name for path in spool.glob(".*")] == [f"{UNFINISHED}new"]
    assert names(store.files)[-1] == f"{folder}/whole"
