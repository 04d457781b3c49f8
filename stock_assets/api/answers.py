"""What the service takes and says: the documents that OpenAPI describes."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

TICKER = r"^[A-Za-z0-9][A-Za-z0-9.\-]{0,14}$"
Ticker = Annotated[str, Field(pattern=TICKER, max_length=15, examples=["AAPL"])]
Share = Annotated[float, Field(ge=0, le=1)]
MOST_AT_ONCE = 1_000
ID = r"^[0-9A-Za-z-]+$"  # of drops and of runs
STORABLE = r"^[^\x00]*$"  # text that PostgreSQL can be asked for
SORT = (  # with a dash, the highest first
    "^-?(ticker|sector|days|last_date|last_close|change|width|mae_ratio|forecast_at)$"
)


EXAMPLES: dict[str, Any] = {  # of fields by their name, wherever they stand
    "close": 430.47,
    "last_close": 430.47,
    "actual_close": 430.47,
    "lo_80": 396.13,
    "hi_80": 467.79,
    "lo_95": 379.81,
    "hi_95": 487.9,
    "h": 10,
    "date": "2013-03-15",
    "as_of": "2013-03-01",
    "trained_to": "2013-03-01",
    "first_date": "2012-03-02",
    "last_date": "2013-03-01",
    "days": 250,
    "origins": 107,
    "ticker": "AAPL",
    "sector": "Technology",
    "model": "naive",
    "mae_ratio": 1.0,
    "coverage_80": 0.796,
    "coverage_95": 0.935,
    "error": 0.0123,
    "naive_error": 0.0131,
    "file_name": "prices.csv",
    "size": 78622,
    "rows": 2,
    "ignored_columns": ["note"],
    "rows_read": 1250,
    "accepted": 1245,
    "collapsed": 3,
    "rejected": 2,
    "waiting": 0,
    "tickers": ["AAPL", "MSFT"],
    "total": 503,
    "next": "/tickers?limit=50&offset=50",
    "received_at": "2013-03-01T23:30Z",
    "started_at": "2013-03-01T23:30Z",
    "ended_at": "2013-03-01T23:30Z",
    "forecast_at": "2013-03-01T23:30Z",
    "forecast_age_seconds": 720,
    "detail": "Forecasts are ready.",
    "type": "about:blank",
    "reason": "no model beats it beyond noise: ridge comes nearest with p = 0.132",
}


def _with_examples(schema: dict[str, Any]) -> None:
    for name, described in schema.get("properties", {}).items():
        if name in EXAMPLES and "examples" not in described and "$ref" not in str(described):
            described["examples"] = [EXAMPLES[name]]


class Document(BaseModel):
    """Immutable, as what was said."""

    model_config = ConfigDict(frozen=True, json_schema_extra=_with_examples)


D = TypeVar("D", bound=Document)


class Problem(Document):
    """What went wrong and what to do, after RFC 9457."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["No prices of APPL. Did you mean AAPL, APA, APH?"])
    request_id: str = Field(examples=["4f0c1d2ab93e4f7c"])


# Uploads


class Fate(StrEnum):
    """What became of a drop."""

    QUEUED = "queued"
    RUNNING = "running"
    ACCEPTED = "accepted"
    FAILED = "failed"


class Upload(Document):
    """A file that was taken."""

    drop: str = Field(description="Its id.", examples=["prices-1f0c94a1b2c3"])
    is_new: bool = Field(description="False where the same bytes are a drop already.")
    file_name: str = Field(examples=["prices.csv"])
    size: int = Field(description="Bytes.", ge=0)
    ignored_columns: list[str] = Field(description="Columns of the file that are not ours.")
    doubts: list[str] = Field(
        description="What is wrong with its first rows, if none of them can be taken.",
        examples=[["Line 2: date is not a day written YYYY-MM-DD"]],
    )
    follow: str = Field(examples=["/drops/prices-1f0c94a1b2c3"])


class Reason(Document):
    """Why rows were rejected; a row may have several reasons."""

    reason: str = Field(examples=["low is above open or close"])
    rows: int = Field(ge=1)


class DropReport(Document):
    """A drop, and what became of it."""

    drop: str = Field(examples=["prices-1f0c94a1b2c3"])
    file_name: str
    size: int = Field(description="Bytes.", ge=0)
    received_at: datetime
    status: Fate
    detail: str = Field(description="In a sentence; why, where it failed.")
    rows_read: int | None = Field(description="accepted + collapsed + rejected", ge=0)
    accepted: int | None = Field(ge=0)
    collapsed: int | None = Field(description="Exact repeats of other rows.", ge=0)
    rejected: int | None = Field(ge=0)
    reasons: list[Reason] = Field(description="Of rejected rows, the most frequent first.")
    tickers: list[str] = Field(description="Whose prices it changed.")
    waiting: int = Field(description="How many of them have no forecast of these prices yet.", ge=0)


# Runs


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Launched(Document):
    """A run that trains and forecasts a range of tickers."""

    run: str = Field(description="Its id.", examples=["8f6a0a52-2f0e-4a70-9a4f-f2a6a1cf9f5e"])
    tickers: list[str] = Field(description="Those that were asked for.", examples=[["AAPL"]])
    follow: str = Field(examples=["/runs/8f6a0a52-2f0e-4a70-9a4f-f2a6a1cf9f5e"])


class Training(Document):
    """The runs that were asked for."""

    runs: list[Launched]
    lacking: list[str] = Field(
        description="Tickers that no run trains, as Dagster does not know them before the run that "
        "validates them has ended: ask again in a minute.",
        examples=[["NEW"]],
    )


class RunReport(Document):
    """A run of Dagster."""

    run: str = Field(examples=["8f6a0a52-2f0e-4a70-9a4f-f2a6a1cf9f5e"])
    job: str = Field(examples=["refresh_tickers"])
    status: RunStatus
    detail: str = Field(description="Why, where it failed; else empty.")
    started_at: datetime | None
    ended_at: datetime | None


# Forecasts


class Asked(Document):
    """Which forecast is wanted."""

    ticker: Ticker
    model: str | None = Field(
        None, max_length=64, pattern=STORABLE, description="Another than the champion."
    )
    as_of: date | None = Field(None, description="The newest of those made by the end of this day.")


class Day(Document):
    """What was told of the close of one trading day."""

    h: int = Field(description="Trading days ahead.", ge=1, le=10)
    date: date
    close: float
    lo_80: float
    hi_80: float
    lo_95: float
    hi_95: float


class Forecast(Document):
    """The closes of the next 10 trading days, with intervals."""

    ticker: str = Field(examples=["AAPL"])
    sector: str = Field(examples=["Technology"])
    as_of: date = Field(description="The last day of prices that it knows.")
    last_close: float = Field(description="Of that day: what the naive model tells.")
    model: str = Field(examples=["naive"])
    model_version: str = Field(examples=["1f0c94a1b2c3"])
    is_champion: bool = Field(description="Whether this is the forecast that people are shown.")
    reason: str = Field(description="Why this model is the champion, or who is.")
    mae_ratio: float | None = Field(
        description="Its error / the naive one's, in the backtest; none where there was none."
    )
    coverage_80: Share | None = Field(description="Closes inside the interval in the backtest.")
    coverage_95: Share | None
    forecast_at: datetime
    is_current: bool = Field(description="Whether it knows all prices that there are.")
    days: list[Day]


class Tickers(Document):
    """The tickers that are asked for."""

    tickers: list[Ticker] = Field(
        min_length=1, max_length=MOST_AT_ONCE, examples=[["AAPL", "MSFT", "GOOGL"]]
    )


class Told(Document):
    """A ticker's forecast, or why there is none."""

    ticker: str
    forecast: Forecast | None = None
    error: str | None = Field(
        None,
        description="What to do, in a sentence.",
        examples=["No prices of GOOGL. Did you mean GOOG?"],
    )


class Forecasts(Document):
    """One answer for each ticker, in the order they were asked for."""

    forecasts: list[Told]


class TickerRow(Document):
    """A ticker, its newest forecast and how old that is."""

    ticker: str = Field(examples=["AAPL"])
    sector: str = Field(examples=["Technology"])
    first_date: date
    last_date: date
    days: int = Field(description="Of history.", ge=1)
    champion: str | None = Field(description="Whose forecast is shown.", examples=["naive"])
    last_close: float | None = Field(description="On the day of the forecast.")
    close: float | None = Field(description="Told for 10 trading days ahead.")
    lo_80: float | None
    hi_80: float | None
    mae_ratio: float | None = Field(description="Error / naive in the backtest.")
    forecast_at: datetime | None
    forecast_age_seconds: int | None
    is_current: bool = Field(description="Whether the forecast knows all prices that there are.")


class TickerList(Document):
    """A page of tickers."""

    total: int = Field(description="That fit the filter.", ge=0)
    tickers: list[TickerRow]
    next: str | None = Field(description="Address of the next page.")


class Close(Document):
    """The close of a day."""

    date: date
    close: float


class Model(Document):
    """A model of a ticker's present training, and its backtest."""

    model: str
    is_champion: bool
    days: int = Field(description="It was trained on.")
    trained_to: date
    origins: int = Field(description="Of its backtest; 0 if there was none.")
    mae_ratio: float | None
    coverage_80: float | None
    coverage_95: float | None


class Score(Document):
    """A forecast that people were shown, and what came."""

    as_of: date
    h: int
    date: date
    model: str
    close: float
    actual_close: float
    error: float = Field(description="Log of actual / told.")
    naive_error: float = Field(description="The same of the naive forecast.")
    inside_80: bool
    inside_95: bool


class TickerReport(Document):
    """All that is known of a ticker."""

    ticker: str
    sector: str
    first_date: date
    last_date: date
    days: int
    closes: list[Close] = Field(description="Ascending; the last ones that were asked for.")
    models: list[Model] = Field(description="The one with the least error first.")
    scores: list[Score] = Field(description="The newest first.")


# Health


class Health(Document):
    """Whether the service is alive."""

    status: str = Field(examples=["ok"])


class Readiness(Document):
    """Whether what the service needs answers; each is ok or says what is wrong."""

    database: str = Field(examples=["ok"])
    dagster: str = Field(examples=["ok"])

    @property
    def is_ready(self) -> bool:
        """Whether all of them are ok."""
        return (self.database, self.dagster) == ("ok", "ok")


def read(kind: type[D], *sources: Mapping[str, str]) -> D:
    """A document made of a request's parameters; of two with one name, the last one is meant.

    Raises:
        RequestValidationError: One is not as expected.
    """
    try:
        return kind.model_validate({name: told[name] for told in sources for name in told})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def parameters(kind: type[Document], *, in_path: str) -> list[dict[str, Any]]:
    """The same parameters as OpenAPI describes them."""
    return [
        {
            "name": name,
            "in": "path" if name == in_path else "query",
            "required": name == in_path,
            "schema": schema,
        }
        for name, schema in kind.model_json_schema()["properties"].items()
    ]
