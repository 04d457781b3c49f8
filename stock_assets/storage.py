"""The platform's own files: drops as they came, feature tables, model artifacts."""

import errno
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stock_assets.errors import SetupError
from stock_assets.files import Files, spooled, sweep
from stock_assets.names import drop_key

_BLOCK = 1 << 20
_FOLDERS = ("drops", "features", "models/market", "models/tickers")


@dataclass(frozen=True)
class KeptFile:
    """A dropped file as the store keeps it.

    Attributes:
        key: Its drop's partition key: the file's name and the start of its digest.
        sha256: Digest of its bytes, hexadecimal.
        size: Bytes.
    """

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Store:
    """Drops, features and models, in a folder or in a bucket."""

    files: Files

    def keep_drop(self, source: Files, name: str) -> KeptFile:
        """Copy a dropped file byte for byte; the same bytes under the same name are kept once.

        Raises:
            OSError: The file cannot be read, or is written to meanwhile; or there is no room.
        """
        digest, size = hashlib.sha256(), 0
        before = source.changed_ns(name)
        with source.open(name) as file, spooled(self.files, "drops") as path:
            with path.open("xb") as copy:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    size += copy.write(block)
            if source.changed_ns(name) != before:  # what was read may be half old and half new
                raise OSError(errno.EBUSY, "It is written to at this moment", source.url(name))
            sha256 = digest.hexdigest()
            key = drop_key(name, sha256)
            self.files.publish(path, _of_drop(key))
        return KeptFile(key, sha256, size)

    def rename_drop(self, key: str, new: str) -> None:
        """Keep a drop's file under another key."""
        if new != key:
            with suppress(FileNotFoundError):  # another process has done so
                self.files.rename(_of_drop(key), _of_drop(new))

    def drop_url(self, key: str) -> str:
        """Where a drop's file lies."""
        return self.files.url(_of_drop(key))

    def read_drop(self, key: str, at_most: int) -> bytes:
        """A drop's bytes, no more of them than asked for.

        Raises:
            SetupError: The file is gone.
        """
        with self._known(_of_drop(key)), self.files.open(_of_drop(key)) as file:
            return file.read(at_most)

    def drop_digest(self, key: str) -> str:
        """The SHA-256 of a drop's bytes, hexadecimal.

        Raises:
            SetupError: The file is gone.
        """
        with self._known(_of_drop(key)), self.files.open(_of_drop(key)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write_features(self, features: pd.DataFrame) -> None:
        """Replace the feature tables of tickers, one below the other and each ascending by date."""
        table = pa.Table.from_pandas(features, preserve_index=False).replace_schema_metadata()
        days = features.groupby("ticker", sort=False).size()
        self.files.write_each(_parquet_files(table, days))

    def read_features(self, tickers: Iterable[str]) -> pd.DataFrame:
        """The feature tables of those tickers that have one, ascending by ticker and date."""
        names = map(_of_features, sorted(set(tickers)))
        tables = [_read_table(content) for content in self.files.read_each(names)]
        if not tables:
            return pd.DataFrame()
        table = pa.concat_tables(tables, promote_options="default")
        features: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return features

    def write_artifact(self, folder: str, name: str, content: bytes) -> str:
        """Keep a training's artifact; returns its name in the store."""
        path = f"models/{folder}/{name}"
        self.files.write_each([(path, content)])
        return path

    def read_artifact(self, path: str) -> bytes:
        """The artifact of that name in the store.

        Raises:
            SetupError: It is gone.
        """
        with self._known(path), self.files.open(path) as file:
            return file.read()

    def sweep(self) -> None:
        """Remove what killed processes have left on its way into the store."""
        for spool in {self.files.spool(folder) for folder in _FOLDERS}:
            sweep(spool)

    @contextmanager
    def _known(self, name: str) -> Iterator[None]:
        """Tell that a file is gone which the database knows of."""
        try:
            yield
        except FileNotFoundError as error:
            mend = "drop the file again" if name.startswith("drops/") else "train anew"
            raise SetupError(
                f"The database knows of {name}, but {self.files.url(name)} is not there: "
                f"put it back, or {mend}."
            ) from error


def _of_drop(key: str) -> str:
    return f"drops/{key}"


def _of_features(ticker: str) -> str:
    return f"features/{ticker}.parquet"


def _parquet_files(table: pa.Table, days: pd.Series) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of tickers, so many rows each."""
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    start = 0
    for ticker, rows in days.items():
        packed = pa.BufferOutputStream()
        pq.write_table(  # to pack numbers saves no space that would be worth the time
            table.slice(start, rows),
            packed,
            use_dictionary=texts,
            compression="none",
            write_statistics=False,
        )
        yield _of_features(str(ticker)), packed.getvalue().to_pybytes()
        start += rows


def _read_table(content: bytes) -> pa.Table:
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(use_threads=False)
