"""What the service reads from the prediction database, and the one row that it writes."""

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from functools import cache
from http import HTTPStatus
from itertools import groupby
from typing import Any, NamedTuple

import sqlalchemy as sa

from stock_assets.api import answers
from stock_assets.api.problems import ProblemError
from stock_assets.engine import Connected
from stock_assets.names import no_prices
from stock_assets.queries import (
    current_models,
    is_current,
    newest_champions,
    newest_forecasts,
    register_drop,
    same,
)
from stock_assets.tables import (
    drops,
    forecast_scores,
    forecasts,
    market_models,
    model_versions,
    prices,
    rejected_rows,
    tickers,
    writes,
)

H = 10  # trading days ahead, at most
MOST_REASONS = 50
MOST_HINTS = 10  # unknown tickers in one request for which near ones are looked up


class Wanted(NamedTuple):
    """The newest forecast of a ticker.

    Attributes:
        ticker: In capitals.
        model: By this one; by the champion if none is named.
        by: Of those that were made by the end of this day.
    """

    ticker: str
    model: str | None = None
    by: date | None = None

    def kind(self) -> tuple[str, date]:
        """What those that are read at once have in common."""
        return self.model or "", self.by or date.min


class Reader(Connected):
    """The prediction database, as the service knows it."""

    def writes(self) -> int:
        """How many transactions wrote to it: what was read is true until there are more."""
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.select(writes.c.count)) or 0)

    # Drops

    def register_drop(
        self, key: str, sha256: str, file_name: str, size: int
    ) -> tuple[sa.Row[Any], bool]:
        """Note a file that was uploaded: its drop, and whether that is a new one."""
        row = {"key": key, "sha256": sha256, "file_name": file_name, "size": size}
        known = sa.select(drops.c.id).where(drops.c.sha256 == sha256)
        with self._write() as connection:
            is_new = connection.execute(known).first() is None
            return register_drop(connection, row), is_new

    def drop(self, key: str) -> sa.Row[Any]:
        """A drop.

        Raises:
            ProblemError: There is none.
        """
        with self.engine.connect() as connection:
            found = connection.execute(drops.select().where(drops.c.key == key)).first()
        if found is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND, f"No drop {key}. The answer to an upload tells its id."
            )
        return found

    def reasons(self, drop_id: int) -> list[answers.Reason]:
        """Why rows of a drop were rejected, the most frequent reason first."""
        unnest = "jsonb_array_elements_text" if self._is_postgres else "json_each"
        each = getattr(sa.func, unnest)(rejected_rows.c.reasons).table_valued("value")
        query = (
            sa.select(each.c.value, sa.func.count().label("rows"))
            .select_from(rejected_rows.join(each, sa.true()))
            .where(rejected_rows.c.drop_id == drop_id)
            .group_by(each.c.value)
            .order_by(sa.desc("rows"), each.c.value)
            .limit(MOST_REASONS)
        )
        with self.engine.connect() as connection:
            return [
                answers.Reason(reason=reason, rows=rows)
                for reason, rows in connection.execute(query)
            ]

    def waiting(self, wanted: Collection[str]) -> int:
        """How many of these tickers have no forecast of their newest prices."""
        query = (
            sa.select(sa.func.count())
            .select_from(tickers)
            .where(
                tickers.c.ticker.in_(wanted),
                sa.func.coalesce(tickers.c.forecast_revision, 0) < tickers.c.price_revision,
            )
        )
        with self.engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    # Tickers

    def demand_known(self, wanted: Collection[str]) -> None:
        """See that there are prices of each.

        Raises:
            ProblemError: Of one there are none; the nearest known ones are named.
        """
        if unknown := self.unknown(wanted):
            raise ProblemError(HTTPStatus.NOT_FOUND, " ".join(unknown.values()))

    def unknown(self, wanted: Collection[str]) -> dict[str, str]:
        """Those without prices, and what to say of each."""
        with self.engine.connect() as connection:
            known = sa.select(tickers.c.ticker).where(tickers.c.ticker.in_(wanted))
            lacking = sorted({*wanted}.difference(connection.scalars(known)))
            hints: Sequence[str] = []
            if 0 < len(lacking) <= MOST_HINTS:
                hints = connection.scalars(sa.select(tickers.c.ticker)).all()
        return {
            ticker: f"{no_prices(ticker, hints)} Upload a CSV that has them: POST /upload."
            for ticker in lacking
        }

    def has_market_model(self) -> bool:
        """Whether what all tickers tell together was ever learned."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(market_models.c.id).limit(1)).first() is not None

    def ticker_list(
        self, text: str, sort: str, limit: int, offset: int
    ) -> tuple[int, list[answers.TickerRow]]:
        """How many tickers have the text in their name or sector, and a page of them.

        Without a field to sort by, the ticker that is the text comes first, then those that start
        with it.
        """
        rows = _ticker_rows().subquery()
        fits = rows.c.ticker.icontains(text, autoescape=True) | rows.c.sector.icontains(
            text, autoescape=True
        )
        page = (
            sa.select(rows, sa.func.count().over().label("total"))
            .where(fits)
            .order_by(_order(rows, text, sort), rows.c.ticker)
        )
        with self.engine.connect() as connection:
            found = connection.execute(page.limit(limit).offset(offset)).mappings().all()
            counting = sa.select(sa.func.count()).select_from(rows).where(fits)
            total = found[0]["total"] if found else connection.scalar(counting)
        return int(total or 0), [_ticker_row(row) for row in found]

    def ticker(self, ticker: str, closes: int, scores: int) -> answers.TickerReport:
        """A ticker, its last closes, its models and what became of its forecasts.

        Raises:
            ProblemError: There are no prices of it.
        """
        with self.engine.connect() as connection:
            row = connection.execute(tickers.select().where(tickers.c.ticker == ticker)).first()
            if row is not None:
                return answers.TickerReport(
                    ticker=ticker,
                    sector=row.sector,
                    first_date=row.first_date,
                    last_date=row.last_date,
                    days=row.days,
                    closes=_documents(answers.Close, connection, _closes(ticker, closes))[::-1],
                    models=_documents(answers.Model, connection, _models(ticker)),
                    scores=_documents(answers.Score, connection, _scores(ticker, scores)),
                )
        raise ProblemError(HTTPStatus.NOT_FOUND, self.unknown([ticker])[ticker])

    # Forecasts

    def forecasts(self, wanted: Collection[Wanted]) -> dict[Wanted, bytes]:
        """Each one's newest forecast as JSON, in one query for all of a model and a day."""
        told = {}
        by_kind = sorted(wanted, key=Wanted.kind)
        with self.engine.connect() as connection:
            champion = connection.execute(_CHAMPION).first()
            for (model, by), some in groupby(by_kind, key=lambda one: (one.model, one.by)):
                rows = connection.execute(
                    _forecasts_query(of_model=bool(model), until=by is not None),
                    {"wanted": [one.ticker for one in some], "model": model, "by": by},
                ).all()
                for ticker, days in groupby(rows, key=lambda row: row.ticker):
                    document = _forecast(list(days), champion)
                    told[Wanted(ticker, model, by)] = document.model_dump_json().encode()
        return told

    def no_forecast(self, wanted: Wanted) -> ProblemError:
        """Why there is none, and what to do."""
        ticker, model, by = wanted
        if unknown := self.unknown([ticker]):
            return ProblemError(HTTPStatus.NOT_FOUND, unknown[ticker])
        others = newest_forecasts(by).where(tickers.c.ticker == ticker, forecasts.c.h == 1)
        with self.engine.connect() as connection:
            models = sorted(row.model for row in connection.execute(others))
        if models:
            return ProblemError(
                HTTPStatus.NOT_FOUND,
                f"{ticker} has no forecast by {model}. There are: {', '.join(models)}.",
            )
        when = f" that was made by {by}" if by else " yet"
        return ProblemError(HTTPStatus.CONFLICT, _none(ticker, when))

    def no_forecasts(self, wanted: Collection[str]) -> dict[str, str]:
        """The same of many, by champions."""
        return {ticker: _none(ticker, " yet") for ticker in wanted} | self.unknown(wanted)

    @property
    def _is_postgres(self) -> bool:
        return self.engine.name == "postgresql"


_CHAMPION = newest_champions().limit(1)


@cache
def _forecasts_query(*, of_model: bool, until: bool) -> sa.Select[Any]:
    """Built once: SQLAlchemy knows by the object what it has compiled."""
    query = newest_forecasts(sa.bindparam("by", type_=sa.Date) if until else None)
    whose = forecasts.c.model == sa.bindparam("model") if of_model else forecasts.c.is_champion
    return query.where(tickers.c.ticker.in_(sa.bindparam("wanted", expanding=True)), whose)


def _none(ticker: str, when: str) -> str:
    return f"{ticker} has prices but no forecast{when}. Ask for one: POST /train/{ticker}."


def _documents(kind: Any, connection: sa.Connection, query: sa.Select[Any]) -> list[Any]:
    return [kind(**row) for row in connection.execute(query).mappings()]


def _order(rows: sa.Subquery, text: str, sort: str) -> sa.ColumnElement[Any]:
    if sort:
        field = rows.c[sort.removeprefix("-")]
        return (field.desc() if sort.startswith("-") else field.asc()).nulls_last()
    named = rows.c.ticker == text.upper()
    return sa.case((named, 0), (rows.c.ticker.istartswith(text, autoescape=True), 1), else_=2)


def _ticker_rows() -> sa.Select[Any]:
    """A row for each ticker, with the end of its champion's newest forecast."""
    told = forecasts.alias()
    newest = sa.select(sa.func.max(told.c.as_of)).where(told.c.ticker == tickers.c.ticker)
    last_close = prices.c.close
    return (
        sa.select(
            *(tickers.c[name] for name in ("ticker", "sector", "first_date", "last_date", "days")),
            forecasts.c.model.label("champion"),
            last_close.label("last_close"),
            forecasts.c.close.label("close"),
            forecasts.c.lo_80,
            forecasts.c.hi_80,
            (forecasts.c.close / last_close - 1).label("change"),
            ((forecasts.c.hi_80 - forecasts.c.lo_80) / last_close).label("width"),
            model_versions.c.mae_ratio,
            forecasts.c.created_at.label("forecast_at"),
            is_current().label("is_current"),
        )
        .select_from(tickers)
        .join(
            forecasts,
            (forecasts.c.ticker == tickers.c.ticker)
            & (forecasts.c.as_of == newest.scalar_subquery())
            & (forecasts.c.h == H)
            & forecasts.c.is_champion,
            isouter=True,
        )
        .join(
            prices,
            (prices.c.ticker == forecasts.c.ticker) & (prices.c.date == forecasts.c.as_of),
            isouter=True,
        )
        .join(
            model_versions,
            same(forecasts, model_versions.c, "ticker", "model")
            & (model_versions.c.version == forecasts.c.model_version),
            isouter=True,
        )
    )


def _ticker_row(row: sa.RowMapping) -> answers.TickerRow:
    at = utc(row["forecast_at"]) if row["forecast_at"] else None
    age = int((datetime.now(UTC) - at).total_seconds()) if at else None
    return answers.TickerRow.model_validate({**row, "forecast_at": at, "forecast_age_seconds": age})


def _closes(ticker: str, most: int) -> sa.Select[Any]:
    """The newest first."""
    return (
        sa.select(prices.c.date, prices.c.close)
        .where(prices.c.ticker == ticker)
        .order_by(prices.c.date.desc())
        .limit(most)
    )


def _models(ticker: str) -> sa.Select[Any]:
    """Those of the present training, the one with the least error first."""
    return (
        sa.select(*(model_versions.c[name] for name in answers.Model.model_fields))
        .join(tickers, current_models())
        .where(tickers.c.ticker == ticker)
        .order_by(model_versions.c.mae_ratio.nulls_last(), model_versions.c.model)
    )


def _scores(ticker: str, most: int) -> sa.Select[Any]:
    """Of what people were shown, the newest first."""
    score = forecast_scores.c
    return (
        sa.select(
            forecasts.c.as_of,
            forecasts.c.h,
            forecasts.c.target_date.label("date"),
            forecasts.c.model,
            forecasts.c.close,
            *(
                score[name]
                for name in ("actual_close", "error", "naive_error", "inside_80", "inside_95")
            ),
        )
        .join(forecasts, same(forecast_scores, forecasts.c, "ticker", "as_of", "h", "model"))
        .where(score.ticker == ticker, forecasts.c.is_champion)
        .order_by(score.as_of.desc(), score.h)
        .limit(most)
    )


def _forecast(rows: list[sa.Row[Any]], champion: sa.Row[Any] | None) -> answers.Forecast:
    first = rows[0]
    return answers.Forecast(
        **{name: getattr(first, name) for name in _OF_ALL_DAYS},
        reason=_reason(first, champion),
        forecast_at=utc(first.created_at),
        days=[
            answers.Day(
                h=row.h,
                date=row.target_date,
                close=row.close,
                lo_80=row.lo_80,
                hi_80=row.hi_80,
                lo_95=row.lo_95,
                hi_95=row.hi_95,
            )
            for row in rows
        ],
    )


_OF_ALL_DAYS = (
    *("ticker", "sector", "as_of", "last_close", "model", "model_version", "is_champion"),
    *("mae_ratio", "coverage_80", "coverage_95", "is_current"),
)


def _reason(row: sa.Row[Any], champion: sa.Row[Any] | None) -> str:
    if row.is_champion and not row.origins:
        return f"{row.days} days of history are too few to train on."
    if champion is None:
        return "No champion is chosen yet."
    if row.model == champion.model:
        return str(champion.reason)
    was = "It was when this was told; now the champion is" if row.is_champion else "The champion is"
    return f"{was} {champion.model}: {champion.reason}"


def utc(at: datetime) -> datetime:
    """A moment; SQLite keeps it without its zone."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
