"""Uploads: a form with a file becomes a file in the drop folder, and is never whole in memory."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO

from anyio.to_thread import run_sync
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stock_assets.api.problems import ProblemError
from stock_assets.csv_text import COLUMNS, LOOK, doubts, is_gzip, look
from stock_assets.files import Files, spooled
from stock_assets.names import printable

_FIELD = b"file"
_EXPECTED = 'Expected a form with one file in the field "file": curl -F "file=@prices.csv"'


@dataclass
class Received:
    """A file that was sent, at the hidden path where it is until it is complete."""

    drops: Files
    path: Path
    file_name: str = ""
    size: int = 0
    is_gzip: bool = False
    ignored_columns: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    sha256: str = ""

    def dropped(self, key: str) -> str:
        """The name that the sensor takes it by."""
        return f"{key}.csv{'.gz' if self.is_gzip else ''}"

    def publish(self, key: str) -> None:
        """Have the sensor take it; it survives a power cut from then on.

        Raises:
            ProblemError: The folder cannot be written to.
            SetupError: The bucket takes nothing.
        """
        with _writing(self.path.parent):
            self.drops.publish(self.path, self.dropped(key))
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextmanager
def unfinished(drops: Files) -> Iterator[Received]:
    """A place for a file that is on its way to the drop folder; gone if it was not published.

    Raises:
        ProblemError: The folder cannot be made.
    """
    with ExitStack() as stack:
        with _writing(drops.spool()):
            path = stack.enter_context(spooled(drops))
        yield Received(drops, path)


async def receive(
    received: Received, content_type: str, body: AsyncIterator[bytes], most: int
) -> None:
    """Write the form's file, block by block, and look at its start as soon as that is there.

    Raises:
        ProblemError: It is no form with a file, or too large; or the disk is full.
        DropError: The file is no CSV of daily prices, as far as its start tells.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The body is no form. {_EXPECTED}.")
    with _writing(received.path.parent), received.path.open("xb") as file:
        form = _Form(received, file, options[b"boundary"], most)
        async for block in body:
            await run_sync(form.feed, block)
        await run_sync(form.end)


class _Form:
    """A form as it comes; of its fields, the file alone is wanted."""

    def __init__(self, received: Received, file: IO[bytes], boundary: bytes, most: int) -> None:
        self._received, self._file, self._most = received, file, most
        self._digest, self._start = hashlib.sha256(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._files = 0
        self._is_wanted = self._is_looked_at = self._is_ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_name,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _no_form(error) from error

    def feed(self, block: bytes) -> None:
        """Take the next block of the body."""
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise _no_form(error) from error

    def end(self) -> None:
        """Note what the file is, and that it is on disk."""
        if not self._is_ended:
            raise _unexpected("The form breaks off before its end")
        if self._files != 1:
            found = "no file" if not self._files else f"{self._files} files"
            raise _unexpected(f"The form has {found} in that field")
        self._look()
        self._received.sha256 = self._digest.hexdigest()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _begin(self) -> None:
        self._headers.clear()

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._is_wanted = options.get(b"name") == _FIELD and b"filename" in options
        if self._is_wanted:
            self._files += 1
            self._received.file_name = plain_name(options[b"filename"])

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_wanted or self._files > 1:
            return
        block = memoryview(data)[start:end]
        self._received.size += len(block)
        if self._received.size > self._most:
            raise too_large(self._most)
        if not self._is_looked_at:
            self._start += block
            if len(self._start) >= LOOK:
                self._look()
        self._digest.update(block)
        self._file.write(block)

    def _on_end(self) -> None:
        self._is_ended = True

    def _look(self) -> None:
        """Refuse what is no CSV of prices while most of it is still to come."""
        if not self._is_looked_at:
            start = bytes(self._start[:LOOK])
            columns = look(start)
            self._received.is_gzip = is_gzip(start)
            self._received.ignored_columns = [name for name in columns if name not in COLUMNS]
            self._received.doubts = doubts(start)
            self._is_looked_at = True
            self._start.clear()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tell what the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"The folder {folder} cannot be written to ({error.strerror}): make room there, "
            "or let the service's user write to it; then upload again.",
        ) from error


def plain_name(name: bytes) -> str:
    """A file's name as it is shown: the last part of a path, without what cannot be printed."""
    last = name.decode(errors="replace").replace("\\", "/").rsplit("/", 1)[-1]
    return printable(last)[:255] or "drop"


def too_large(most: int) -> ProblemError:
    """What to say of a file that is not taken for its size."""
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The file has more than {most:,} bytes, the most that is taken "
        "(STOCK_ASSETS_MAX_DROP_BYTES): split it, a drop may hold any part of a history.",
    )


def _no_form(error: FormParserError) -> ProblemError:
    return _unexpected(f"The form cannot be read ({error})")


def _unexpected(found: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{found}. {_EXPECTED}.")
