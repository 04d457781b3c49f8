"""Files by their names: in a folder, or in a bucket of an object store.

A file appears under its name only when it is complete, so a reader never sees half of one. Packages
that speak to object stores are slow to load, and loaded where an address is that of a bucket.
"""

import errno
import io
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import uuid4

from stock_assets.errors import SetupError

_Item = TypeVar("_Item")
UNFINISHED = ".stock-assets-"  # hidden from the sensor; nobody else's, where all put files
AT_ONCE = 64  # objects that are on their way together
_STALE_SECONDS = 86_400.0
_BLOCK = 8 << 20  # bytes of a large object that are on their way together


class State(NamedTuple):
    """What changes when a file does: its size in bytes, and when it was written, in ns."""

    size: int
    changed_ns: int


class Files(Protocol):
    """Files at one place; names may have slashes.

    A file that is not there is a FileNotFoundError. A bucket that is not there, or that does not
    answer as it should, is a SetupError.
    """

    def spool(self, folder: str = "") -> Path:
        """The local folder where the files of a folder are until they are complete."""

    def make(self) -> None:
        """Make the folder, or see that the bucket is there."""

    def states(self) -> dict[str, State]:
        """The files that lie here and not further below, by name."""

    def changed_ns(self, name: str) -> int | None:
        """When a file was written; None if it is not there."""

    def open(self, name: str) -> io.BufferedReader:
        """A file, to be read from its start."""

    def read_each(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of those files that there are, in the order of their names here."""

    def write_each(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write files, or replace them: names and contents."""

    def publish(self, path: Path, name: str) -> None:
        """Have a file of the spool appear under a name."""

    def rename(self, name: str, new: str) -> None:
        """Have a file appear under another name."""

    def url(self, name: str) -> str:
        """The address of a file."""


Place = Path | str  # a folder, or the URL of a bucket


@cache  # of a bucket, connections are kept
def files_at(place: Place) -> Files:
    """The files in a folder, or below the URL of a bucket."""
    return Bucket(place) if isinstance(place, str) else Folder(place)


@contextmanager
def spooled(files: Files, folder: str = "") -> Iterator[Path]:
    """A path in the spool for a file that is to be published; gone at the end if it was not.

    Args:
        files: Where it will appear.
        folder: In which folder there.
    """
    spool = files.spool(folder)
    spool.mkdir(parents=True, exist_ok=True)
    path = spool / f"{UNFINISHED}{uuid4().hex}"
    try:
        yield path
    finally:
        with suppress(OSError):  # it is hidden
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove from a folder what killed processes have left unfinished, once it is a day old."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # another process may be at it too
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


@dataclass(frozen=True)
class Folder:
    """Files below a folder."""

    root: Path

    def spool(self, folder: str = "") -> Path:
        """That folder itself: there a file appears by being renamed."""
        return self.root / folder

    def make(self) -> None:
        """Make the folder where there is none."""
        self.root.mkdir(parents=True, exist_ok=True)

    def states(self) -> dict[str, State]:
        """Sizes and times of its files; folders and links to nothing are passed over."""
        self.make()
        found = {}
        for path in self.root.iterdir():
            try:
                stat = path.stat()
            except OSError:  # renamed or removed since it was listed, or a link to nothing
                continue
            if path.is_file():
                found[path.name] = State(stat.st_size, stat.st_mtime_ns)
        return found

    def changed_ns(self, name: str) -> int | None:
        """When a file was written; None if it is not there."""
        try:
            return (self.root / name).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, name: str) -> io.BufferedReader:
        """A file, to be read from its start."""
        return (self.root / name).open("rb")

    def read_each(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of those files that there are, one after the other."""
        for name in names:
            try:
                content = (self.root / name).read_bytes()
            except FileNotFoundError:
                continue
            yield content

    def write_each(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write files, one after the other, each beside its place and then renamed."""
        for name, content in contents:
            with spooled(self, name.rpartition("/")[0]) as path:
                path.write_bytes(content)
                self.publish(path, name)

    def publish(self, path: Path, name: str) -> None:
        """Rename a file."""
        path.replace(self.root / name)

    def rename(self, name: str, new: str) -> None:
        """Rename a file."""
        (self.root / name).replace(self.root / new)

    def url(self, name: str) -> str:
        """Its file:// address."""
        return (self.root / name).as_uri()


class _Scheme(NamedTuple):
    """What there is to know of a kind of object store.

    Attributes:
        extra: What to install: stock-assets[extra].
        environment: Where its credentials are looked for.
        options: Of its file system in fsspec.
        parts: How a large file is sent.
    """

    extra: str
    environment: str
    options: Mapping[str, Any]
    parts: Mapping[str, Any]


SCHEMES = {
    "s3": _Scheme(
        "s3",
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
        # An object is read by one request, and a large one sent in parts one after the other, 20 MB
        # of it in memory: left alone, s3fs asks twice, and holds 600 MB.
        options={"max_concurrency": 1, "config_kwargs": {"max_pool_connections": AT_ONCE}},
        parts={"chunksize": _BLOCK},
    ),
    "gs": _Scheme("gcs", "GOOGLE_APPLICATION_CREDENTIALS", {}, {}),
    "abfs": _Scheme("azure", "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY", {}, {}),
}
_TIMES = ("LastModified", "mtime", "last_modified")  # in the words of S3, Google and Azure


@dataclass(frozen=True)
class Bucket:
    """Objects below an address such as s3://bucket/prefix, each put as a whole.

    Attributes:
        address: Without a slash at its end.
    """

    address: str

    def spool(self, folder: str = "") -> Path:  # noqa: ARG002
        """The folder of temporary files."""
        return Path(tempfile.gettempdir())

    def make(self) -> None:
        """See that the bucket is there.

        Raises:
            SetupError: It is not.
        """
        with self._asking():
            is_there = self._system.exists(self._bucket)
        if not is_there:
            raise self._no_bucket()

    def states(self) -> dict[str, State]:
        """Sizes and times of the objects, as the store tells them now."""
        try:
            with self._asking():
                listed = self._system.ls(self._root, detail=True)
        except FileNotFoundError:  # which is said of a prefix without objects, too
            self.make()
            return {}
        found = {}
        for info in listed:
            name = info["name"].removeprefix(f"{self._root}/")
            if info["type"] == "file" and name and "/" not in name:
                found[name] = State(info["size"], _changed_ns(info))
        return found

    def changed_ns(self, name: str) -> int | None:
        """When an object was put; None if it is not there."""
        try:
            with self._asking():
                return _changed_ns(self._system.info(self._path(name)))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> io.BufferedReader:
        """An object, to be read from its start, some megabytes at a time.

        Raises:
            OSError: It is not there, it may not be read, or it is replaced meanwhile.
        """
        try:
            with self._asking(PermissionError):
                opened = self._system.open(self._path(name), "rb", cache_type="none")
        except OSError as error:  # which does not say of what
            number = errno.EACCES
            if isinstance(error, FileNotFoundError):
                self.make()  # it may lack because the bucket is gone
                number = errno.ENOENT
            raise OSError(number, os.strerror(number), self.url(name)) from error
        return io.BufferedReader(opened, _BLOCK)

    def read_each(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents of those objects that there are, many of them read together."""
        for some in _batches(names):
            paths = [self._path(name) for name in some]
            with self._asking():
                contents = self._system.cat(paths, on_error="return")
            if any(isinstance(content, FileNotFoundError) for content in contents.values()):
                self.make()  # they may lack because the bucket is gone
            for path in paths:
                content = contents[path]
                if isinstance(content, FileNotFoundError):
                    continue
                with self._asking():
                    if isinstance(content, Exception):
                        raise content
                yield content

    def write_each(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Put objects, many of them together."""
        for some in _batches(contents):
            with self._putting():
                self._system.pipe({self._path(name): content for name, content in some})

    def publish(self, path: Path, name: str) -> None:
        """Put a file of the spool."""
        with self._putting():
            self._system.put_file(str(path), self._path(name), **self._scheme.parts)

    def rename(self, name: str, new: str) -> None:
        """Have the store copy an object, and remove it under its old name."""
        with self._asking():
            self._system.cp_file(self._path(name), self._path(new))
            self._system.rm_file(self._path(name))

    def url(self, name: str) -> str:
        """Its address."""
        return f"{self.address}/{name}"

    @property
    def _scheme(self) -> _Scheme:
        return SCHEMES[self.address.partition("://")[0]]

    @property
    def _system(self) -> Any:
        """What speaks to the store."""
        return self._opened[0]

    @property
    def _root(self) -> str:
        """The bucket and the prefix."""
        return self._opened[1]

    @property
    def _bucket(self) -> str:
        return self._root.partition("/")[0]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, which remembers no listing, and the root in it."""
        try:
            from fsspec import url_to_fs  # noqa: PLC0415  slow to load

            system, root = url_to_fs(self.address, use_listings_cache=False, **self._scheme.options)
        except ImportError as error:
            raise SetupError(
                f"{self.address} needs a package that is not installed: "
                f"pip install 'stock-assets[{self._scheme.extra}]'"
            ) from error
        return system, root

    @contextmanager
    def _asking(self, *passed: type[Exception]) -> Iterator[None]:
        """Tell why the store refuses, but for what is not there and other errors to be passed."""
        try:
            yield
        except Exception as error:
            if isinstance(error, (FileNotFoundError, SetupError, *passed)):
                raise
            raise SetupError(
                f"{self.address} does not answer as it should ({str(error).strip()}). Expected a "
                "bucket that may be listed, read and written, with what the environment says: "
                f"{self._scheme.environment}."
            ) from error

    @contextmanager
    def _putting(self) -> Iterator[None]:
        """Tell why the store takes nothing."""
        try:
            with self._asking():
                yield
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> SetupError:
        return SetupError(
            f"There is no bucket {self._bucket!r}, which {self.address} names: make it, or mend "
            "STOCK_ASSETS_FILES or STOCK_ASSETS_DROPS."
        )


def _changed_ns(info: dict[str, Any]) -> int:
    (time,) = (info[name] for name in _TIMES if name in info)
    return int(time.timestamp() * 1e6) * 1000


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while some := list(islice(iterator, AT_ONCE)):
        yield some
