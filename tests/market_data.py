"""Yahoo, Alpha Vantage and a host with CSVs, on this machine: real sockets, TLS, and their words.

Clients reach it by their own addresses: it is the proxy that the environment names, and its
certificates are those that the environment trusts.
"""

import json
import ssl
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import trustme

YAHOO = "query2.finance.yahoo.com"
ALPHA_VANTAGE = "www.alphavantage.co"
CSVS = "prices.example.com"
QUOTES = "query1.finance.yahoo.com"
HOSTS = (
    YAHOO,
    ALPHA_VANTAGE,
    CSVS,
    QUOTES,
    "fc.yahoo.com",
    "guce.yahoo.com",
    "consent.yahoo.com",
)


@dataclass(frozen=True)
class Answer:
    """What is answered.

    Attributes:
        is_cut: The connection is closed in the middle of it.
        is_slow: Nothing comes after its first half.
        trickles: It comes byte by byte.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False
    is_slow: bool = False
    trickles: bool = False


def as_json(told: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(told).encode(), status, {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Asked:
    """A request."""

    scheme: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Market:
    """What was asked, and what is answered."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all but how Yahoo lets clients in."""
        self.asked: list[Asked] = []
        self.over = Event()
        self._answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        cookie = "A3=d=AQABBK; Expires=Sat, 1 Jan 2050 00:00:00 GMT; Domain=.yahoo.com; Path=/"
        self.answer("fc.yahoo.com", "/", Answer(b"", 404, {"Set-Cookie": cookie}))
        self.answer(QUOTES, "/v1/test/getcrumb", Answer(b"dFhd2vYkS7L"))
        self.answer(YAHOO, "/v1/test/getcrumb", Answer(b"dFhd2vYkS7L"))
        self.answer("guce.yahoo.com", "/consent", Answer(b"<html>Yahoo is part of ...</html>"))

    def answer(self, host: str, name: str, *answers: Answer) -> None:
        """Give answers in turn, the last one again and again.

        Args:
            host: The host that is asked.
            name: A path; of Alpha Vantage, a function and a symbol.
            answers: From now on.
        """
        self._answers[host, name] = list(answers)

    def chart(self, symbol: str, *answers: Answer) -> None:
        """Answers of Yahoo's chart API."""
        self.answer(YAHOO, f"/v8/finance/chart/{symbol}", *answers)

    def sector(self, symbol: str, sector: str) -> None:
        """All that Yahoo is asked for to tell a sector."""
        path = "/ws/fundamentals-timeseries/v1/finance/timeseries"
        told = {
            (YAHOO, f"/v10/finance/quoteSummary/{symbol}"): profile(sector),
            (QUOTES, "/v7/finance/quote"): as_json({"quoteResponse": {"result": []}}),
            (QUOTES, f"{path}/{symbol}"): as_json({"timeseries": {"result": [], "error": None}}),
        }
        for (host, name), answer in told.items():
            self.answer(host, name, answer)

    def api(self, function: str, symbol: str, *answers: Answer) -> None:
        """Answers of Alpha Vantage."""
        self.answer(ALPHA_VANTAGE, f"{function} {symbol}", *answers)

    def of(self, host: str, path: str = "") -> list[Asked]:
        """What was asked of a host."""
        return [asked for asked in self.asked if asked.host == host and path in asked.path]

    def take(self, asked: Asked) -> Answer:
        """Note a request, and give its answer."""
        self.asked.append(asked)
        name = asked.path
        if asked.host == ALPHA_VANTAGE:
            name = f"{asked.query['function']} {asked.query['symbol']}"
        answers = self._answers[asked.host, name] or [_nothing(asked)]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def _nothing(asked: Asked) -> Answer:
    """What each host says of what it does not have."""
    if asked.host == ALPHA_VANTAGE:
        return NO_SYMBOL
    if "quoteSummary" in asked.path:
        symbol = asked.path.rpartition("/")[2]
        told = {"code": "Not Found", "description": f"Quote not found for symbol: {symbol}"}
        return as_json({"quoteSummary": {"result": None, "error": told}}, 404)
    if "chart" in asked.path:
        return NOT_FOUND
    return Answer(b"<html>404 Not Found</html>", 404)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_CONNECT(self) -> None:
        """Be the host that is asked for."""
        host = self.path.rpartition(":")[0]
        if host not in HOSTS:
            self.send_error(502)
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.host = host

    def do_GET(self) -> None:
        """Answer, as that host or as a plain one."""
        address = urlsplit(self.path)
        asked = Asked(
            "https" if hasattr(self, "host") else "http",
            getattr(self, "host", address.hostname or ""),
            address.path,
            dict(parse_qsl(address.query)),
            dict(self.headers),
        )
        self._send(self.server.market.take(asked))

    def do_POST(self) -> None:
        """Answer the same."""
        self.do_GET()

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, text in answer.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        half = len(answer.body) // 2
        if answer.is_cut or answer.is_slow:
            self.wfile.write(answer.body[:half])
            if answer.is_slow:
                self.server.market.over.wait(20)
            self.close_connection = True
            return
        if answer.trickles:
            for byte in answer.body:
                self.wfile.write(bytes([byte]))
                if self.server.market.over.wait(0.02):
                    return
            return
        self.wfile.write(answer.body)

    def finish(self) -> None:
        """Close what a connection has become, too."""
        super().finish()
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    market: Market
    tls: ssl.SSLContext

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may break off."""


@contextmanager
def serving(folder: Path) -> Iterator[Market]:
    """The market, and in its environment what leads clients to it."""
    authority = trustme.CA()
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(server.tls)
        server.market = Market()
        proxy = f"http://127.0.0.1:{server.server_port}"
        names = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        server.market.environment = {
            **dict.fromkeys(names, str(trusted)),
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), proxy),
        }
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.market
        server.shutdown()


# Yahoo

NOT_FOUND = as_json(
    {
        "chart": {
            "result": None,
            "error": {
                "code": "Not Found",
                "description": "No data found, symbol may be delisted",
            },
        }
    },
    404,
)
NO_DAYS = as_json(
    {
        "chart": {
            "result": None,
            "error": {
                "code": "Bad Request",
                "description": "Data doesn't exist for startDate = 1704517200",
            },
        }
    },
    400,
)
TOO_MANY = Answer(b"Too Many Requests\r\n", 429, {"Content-Type": "text/plain"})
DOWN = Answer(
    b"<!DOCTYPE html><html><head><title>Yahoo</title></head><body>Will be right back...</body>",
    200,
    {"Content-Type": "text/html"},
)
CONSENT = Answer(
    b"<!DOCTYPE html><html><body>Bevor Sie zu Yahoo weitergehen</body></html>",
    200,
    {"Content-Type": "text/html"},
)
# What it says of symbols that it once had.
SHELL = as_json(
    {
        "chart": {
            "result": [
                {
                    "meta": {
                        "currency": None,
                        "symbol": "THF",
                        "exchangeName": "NMS",
                        "instrumentType": "ECNQUOTE",
                        "firstTradeDate": None,
                        "regularMarketTime": None,
                    },
                    "indicators": {"quote": [{}], "adjclose": [{}]},
                }
            ],
            "error": None,
        }
    }
)

Row = tuple[float | None, float | None, float | None, float | None, float | None, int | None]


def at(day: str, zone: str, clock: str = "09:30") -> int:
    """A moment as Yahoo writes it."""
    local = datetime.combine(date.fromisoformat(day), time.fromisoformat(clock), ZoneInfo(zone))
    return int(local.timestamp())


def chart(  # noqa: PLR0913
    days: Sequence[str],
    rows: Sequence[Row],
    *,
    zone: str = "America/New_York",
    opens: str = "09:30",
    dividends: Mapping[str, float] | None = None,
    splits: Mapping[str, tuple[int, int]] | None = None,
    live: str = "",
) -> Answer:
    """An answer of the chart API.

    Args:
        days: Of the exchange.
        rows: Open, high, low, close, adjusted close, volume.
        zone: Of the exchange.
        opens: When it opens, by its clock.
        dividends: By day.
        splits: New and old shares, by day.
        live: The time of the last row, where that day is traded now.
    """
    stamps = [at(day, zone, opens) for day in days]
    if live:
        stamps[-1] = at(days[-1], zone, live)
    opened, high, low, close, adjusted, volume = zip(*rows, strict=True)
    events: dict[str, Any] = {}
    if dividends:
        moments = {at(day, zone, opens): amount for day, amount in dividends.items()}
        events["dividends"] = {
            str(moment): {"amount": amount, "date": moment} for moment, amount in moments.items()
        }
    if splits:
        events["splits"] = {
            str(at(day, zone, opens)): {
                "date": at(day, zone, opens),
                "numerator": float(new),
                "denominator": float(old),
                "splitRatio": f"{new}:{old}",
            }
            for day, (new, old) in splits.items()
        }
    offset = datetime.fromtimestamp(stamps[-1], ZoneInfo(zone)).utcoffset()
    assert offset is not None
    result = {
        "meta": {
            "currency": "USD",
            "symbol": "SYMBOL",
            "exchangeName": "NMS",
            "fullExchangeName": "NasdaqGS",
            "instrumentType": "EQUITY",
            "firstTradeDate": 345479400,
            "regularMarketTime": stamps[-1],
            "hasPrePostMarketData": True,
            "gmtoffset": int(offset.total_seconds()),
            "timezone": "EST",
            "exchangeTimezoneName": zone,
            "regularMarketPrice": close[-1],
            "priceHint": 2,
            "dataGranularity": "1d",
            "range": "",
            "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
        },
        "timestamp": stamps,
        **({"events": events} if events else {}),
        "indicators": {
            "quote": [{"open": opened, "high": high, "low": low, "close": close, "volume": volume}],
            "adjclose": [{"adjclose": adjusted}],
        },
    }
    return as_json({"chart": {"result": [result], "error": None}})


def profile(sector: str | None) -> Answer:
    """An answer of the quoteSummary API."""
    profile = {"industry": "Consumer Electronics", "maxAge": 86400}
    if sector is not None:
        profile["sector"] = sector
    return as_json({"quoteSummary": {"result": [{"assetProfile": profile}], "error": None}})


# Alpha Vantage

_PREMIUM = "https://www.alphavantage.co/premium/"
BURST = as_json(
    {
        "Information": "Thank you for using Alpha Vantage! Please consider spreading out your free "
        "API requests more sparingly (1 request per second). You may subscribe to any of the "
        f"premium plans at {_PREMIUM} to lift the free key rate limit (25 requests per day), raise "
        "the per-second burst limit, and instantly unlock all premium endpoints"
    }
)
PREMIUM_BURST = as_json(
    {
        "Information": "Burst pattern detected. Please consider spreading out your API requests "
        "more evenly across a 1-minute window and query no more than 30 requests per second."
    }
)
MINUTE = as_json(
    {
        "Note": "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per "
        f"minute and 500 calls per day. Please visit {_PREMIUM} if you would like to target a "
        "higher API call frequency."
    }
)
FULL = as_json(
    {
        "Information": "Thank you for using Alpha Vantage! The outputsize=full parameter value is "
        "a premium feature for the TIME_SERIES_DAILY endpoint. You may subscribe to any of the "
        f"premium plans at {_PREMIUM} to instantly unlock all premium features"
    }
)
PREMIUM = as_json(
    {
        "Information": "Thank you for using Alpha Vantage! This is a premium endpoint. You may "
        f"subscribe to any of the premium plans at {_PREMIUM} to instantly unlock all premium "
        "endpoints"
    }
)
DEMO = as_json(
    {
        "Information": "The **demo** API key is for demo purposes only. Please claim your free API "
        "key at (https://www.alphavantage.co/support/#api-key) to explore our full API offerings. "
        "It takes fewer than 20 seconds."
    }
)
BAD_KEY = as_json(
    {
        "Error Message": "the parameter apikey is invalid or missing. Please claim your free API "
        "key on (https://www.alphavantage.co/support/#api-key). It should take less than 20 "
        "seconds."
    }
)
NO_SYMBOL = as_json(
    {
        "Error Message": "Invalid API call. Please retry or visit the documentation "
        "(https://www.alphavantage.co/documentation/) for TIME_SERIES_DAILY."
    }
)


def used_up(key: str) -> Answer:
    """The daily limit; it tells the key."""
    return as_json(
        {
            "Information": f"We have detected your API key as {key} and our standard API rate "
            "limit is 25 requests per day. Please subscribe to any of the premium plans at "
            f"{_PREMIUM} to instantly remove all daily rate limits."
        }
    )


def daily(rows: Mapping[str, tuple[str, str, str, str, str]]) -> Answer:
    """An answer of TIME_SERIES_DAILY: open, high, low, close, volume, the newest day first."""
    names = ("1. open", "2. high", "3. low", "4. close", "5. volume")
    days = sorted(rows, reverse=True)
    return as_json(
        {
            "Meta Data": {
                "1. Information": "Daily Prices (open, high, low, close) and Volumes",
                "2. Symbol": "SYMBOL",
                "3. Last Refreshed": days[0],
                "4. Output Size": "Compact",
                "5. Time Zone": "US/Eastern",
            },
            "Time Series (Daily)": {day: dict(zip(names, rows[day], strict=True)) for day in days},
        }
    )


def splits(symbol: str, *factors: tuple[str, str]) -> Answer:
    """An answer of SPLITS, the newest first."""
    return as_json(
        {
            "symbol": symbol,
            "data": [{"effective_date": day, "split_factor": factor} for day, factor in factors],
        }
    )
