"""The platform's own files: drops as they came, feature tables, model artifacts.

A file appears under its name only when it is complete, so a reader never sees half of one.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stock_assets.names import drop_key

_BLOCK = 1 << 20


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
    """Files below one folder."""

    root: Path

    def keep_drop(self, source: Path) -> KeptFile:
        """Copy a dropped file byte for byte; the same bytes under the same name are kept once."""
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as file, _temporary(self.root / "drops") as copy:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += copy.write(block)
            copy.close()
            sha256 = digest.hexdigest()
            key = drop_key(source.name, sha256)
            Path(copy.name).replace(self.drop_path(key))
        return KeptFile(key, sha256, size)

    def drop_path(self, key: str) -> Path:
        """Where a drop's file lies."""
        return self.root / "drops" / key

    def read_drop(self, key: str, at_most: int) -> bytes:
        """A drop's bytes, no more of them than asked for."""
        with self.drop_path(key).open("rb") as file:
            return file.read(at_most)

    def drop_digest(self, key: str) -> str:
        """The SHA-256 of a drop's bytes, hexadecimal."""
        with self.drop_path(key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write_features(self, features: pd.DataFrame) -> None:
        """Replace the feature tables of tickers, one below the other and each ascending by date."""
        table = pa.Table.from_pandas(features, preserve_index=False).replace_schema_metadata()
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
        start = 0
        for ticker, days in features.groupby("ticker", sort=False).size().items():
            with _replacing(self._features_path(str(ticker))) as file:
                pq.write_table(  # to pack numbers saves no space that would be worth the time
                    table.slice(start, days),
                    file,
                    use_dictionary=texts,
                    compression="none",
                    write_statistics=False,
                )
            start += days

    def read_features(self, tickers: Iterable[str]) -> pd.DataFrame:
        """The feature tables of those tickers that have one, ascending by ticker and date."""
        paths = [self._features_path(ticker) for ticker in sorted(set(tickers))]
        tables = [_read_table(path) for path in paths if path.exists()]
        if not tables:
            return pd.DataFrame()
        table = pa.concat_tables(tables, promote_options="default")
        features: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return features

    def write_artifact(self, folder: str, name: str, content: bytes) -> str:
        """Keep a training's artifact; returns its path below the root."""
        path = self.root / "models" / folder / name
        with _replacing(path) as file:
            file.write(content)
        return path.relative_to(self.root).as_posix()

    def read_artifact(self, path: str) -> bytes:
        """The artifact at a path below the root."""
        return (self.root / path).read_bytes()

    def _features_path(self, ticker: str) -> Path:
        return self.root / "features" / f"{ticker}.parquet"


def _read_table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the path's place when the block ends well."""
    with _temporary(path.parent) as file:
        yield file
        file.close()
        Path(file.name).replace(path)


@contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    """A hidden file in the folder, gone at the end unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{uuid4().hex}"
    try:
        with path.open("xb") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)
