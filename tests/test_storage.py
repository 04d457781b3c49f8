"""The store: bytes kept as they came, safe names, and never half a file."""

import hashlib
import re
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.features import price_features
from stock_assets.names import drop_key
from stock_assets.storage import KeptFile, Store
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
    key = drop_key(name, "0" * 64)
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
    assert files(store.root) == [f"features/{name}.parquet" for name in ("A", "AA", "BRK.B")]
    found = store.read_features(name for name in ["BRK.B", "A", "AA", "A"])
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
    assert files(store.root) == ["features/A.parquet", "features/B.parquet"]


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
    table.to_parquet(store.root / "features" / "A.parquet", index=False)
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
        monkeypatch.setattr("pyarrow.parquet.write_table", write_half)
    with pytest.raises((OSError, pa.ArrowInvalid, pa.ArrowTypeError)):
        store.write_features(bad)
    pd.testing.assert_frame_equal(store.read_features(["A"]), table)
    assert files(store.root) == ["features/A.parquet"]


def write_half(_: pa.Table, file: IO[bytes], **__: object) -> None:
    file.write(b"PAR1")
    raise OSError("no space left")


# Artifacts


def test_artifacts_come_back_as_they_were(store: Store) -> None:
    path = store.write_artifact("BRK.B", "0123456789ab.npz", b"\0artifact")
    assert path == "models/BRK.B/0123456789ab.npz"
    assert store.read_artifact(path) == b"\0artifact"


def test_an_error_while_writing_an_artifact_leaves_the_old_one(store: Store) -> None:
    path = store.write_artifact("A", "1", b"old")
    with pytest.raises(TypeError):
        store.write_artifact("A", "1", cast(Any, "no bytes"))
    assert store.read_artifact(path) == b"old"
    assert files(store.root) == [path]


def test_an_error_before_the_first_file_leaves_none(store: Store) -> None:
    with pytest.raises(TypeError):
        store.write_artifact("A", "1", cast(Any, "no bytes"))
    assert files(store.root) == []
