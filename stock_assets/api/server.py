"""The server process of the service."""

import signal
import socket
from types import FrameType

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stock_assets.api.access import LOOPBACK, check_binding
from stock_assets.api.app import create_app
from stock_assets.api.logs import set_up_logs
from stock_assets.errors import SetupError
from stock_assets.settings import Settings

MOST_HEAD = 1 << 16  # bytes of an address and headers
_GRACE_SECONDS = 10  # for requests that are under way at the end


def serve(settings: Settings, host: str, port: int, *, without_keys: bool) -> None:
    """Run the service until it is told to end.

    Raises:
        SetupError: The settings do not go with that address, or nobody can listen there.
    """
    check_binding(settings, host, without_keys=without_keys)
    set_up_logs(settings.log_level)
    app = create_app(settings, hosts=() if without_keys else LOOPBACK)
    config = uvicorn.Config(
        app,
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config)
    with _listening(host, port) as listening:
        address, bound = listening.getsockname()[:2]
        structlog.get_logger("stock_assets.api").info("listening", address=address, port=bound)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # uvicorn, once it has ended, raises it again
        server.run(sockets=[listening])


class Protocol(HttpToolsProtocol):
    """Takes headers of a size; uvicorn's own keeps whatever comes until there is no memory left."""

    _unanswered = 0  # bytes of which nothing came yet, neither a whole head nor some body

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._unanswered += len(data)
        super().data_received(data)
        if self._unanswered > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._unanswered = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass some body on."""
        self._unanswered = 0
        super().on_body(body)


class _Server(uvicorn.Server):
    """Lets running requests end, however often it is told to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second SIGINT is no hurry: after Ctrl-C, `up` sends one to those that had it."""
        super().handle_exit(signal.SIGTERM if sig == signal.SIGINT else sig, frame)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SetupError(
            f"Nobody can listen on {host}, port {port}: {error.strerror}. Choose another one."
        ) from error
