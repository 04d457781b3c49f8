"""Connections: what they may cost before there is a request that could be refused."""

from asyncio import TimerHandle, Transport
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_SECONDS = 10.0  # to say what is wanted
BODY_SECONDS = 30.0  # between two parts of a body
MOST_HEAD_BYTES = 1 << 16


class Connection(HttpToolsProtocol):
    """Ends when its client is slow to send a request, or sends headers without end.

    uvicorn waits for a request as long as it takes, and keeps what came of it.
    """

    _is_head = True  # it has still to say what it wants
    _is_whole = False  # it has sent all of it
    _unanswered = 0  # bytes of which neither a whole head nor some body came yet
    _patience: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait(None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_head, self._is_whole = True, False

    def on_headers_complete(self) -> None:
        """It has said what it wants."""
        super().on_headers_complete()
        self._is_head, self._unanswered = False, 0

    def on_body(self, body: bytes) -> None:
        """Some of its body has come."""
        self._unanswered = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It has sent all of it."""
        super().on_message_complete()
        self._is_whole = True

    def data_received(self, data: bytes) -> None:
        """Read on, with patience for what is still to come."""
        self._unanswered += len(data)
        super().data_received(data)
        if self._is_whole and self.cycle.response_complete:
            self._is_head = True  # no request has begun, and uvicorn has stopped its own clock
        if self._unanswered > MOST_HEAD_BYTES:
            self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif not self._is_head:
            self._wait(None if self._is_whole else BODY_SECONDS)
        elif self._patience is None:
            self._wait(HEAD_SECONDS)

    def _wait(self, seconds: float | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self.flow.read_paused or (self._is_head and self._is_answering):
            self._wait(HEAD_SECONDS)  # it is not the client who is slow
        else:
            self._end(HTTPStatus.REQUEST_TIMEOUT)

    def _end(self, status: HTTPStatus) -> None:
        if self._is_head and not self._is_answering:
            self.transport.write(STATUS_LINE[status] + b"connection: close\r\n\r\n")
        self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete
