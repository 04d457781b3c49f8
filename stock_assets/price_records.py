"""Drops, prices and tickers in the prediction database."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from stock_assets.connection import Connection, frame, records
from stock_assets.queries import insert_into, register_drop, same
from stock_assets.tables import drops, prices, rejected_rows, tickers

if TYPE_CHECKING:
    from stock_assets.prices import Validation

GROWTH = 1.2  # a model is trained anew when the history it learned from has grown by a fifth


@dataclass(frozen=True)
class Drop:
    """A registered drop; counts are missing until it is validated."""

    id: int
    key: str
    sha256: str
    file_name: str
    size: int
    status: str
    rows_read: int | None
    accepted: int | None
    collapsed: int | None
    rejected: int | None
    error: str | None


@dataclass(frozen=True)
class Changes:
    """What a drop changed in the prices.

    Attributes:
        rows_new: (ticker, date) pairs that were not there.
        rows_changed: Pairs that now have other values.
        tickers_new: Tickers that had no prices before, ascending.
        tickers_updated: Other tickers with new or changed prices, ascending.
    """

    rows_new: int
    rows_changed: int
    tickers_new: tuple[str, ...]
    tickers_updated: tuple[str, ...]


@dataclass(frozen=True)
class TickerState:
    """What a ticker is in need of.

    Attributes:
        ticker: Its name.
        price_revision: Counts the changes of its prices.
        last_day: Of its history.
        days: Of its history.
        needs_forecast: Its prices changed after its last forecast, or one is due anyway.
        needs_training: It has no model, or prices changed that its model was trained on, or its
            history has grown by a fifth since, or it was said to be due.
        due: Why one of the two was said to be due; empty if it was not.
    """

    ticker: str
    price_revision: int
    last_day: date
    days: int
    needs_forecast: bool
    needs_training: bool
    due: str


@dataclass(frozen=True)
class LastPrices:
    """The newest prices of a ticker.

    Attributes:
        sector: Its newest one.
        first: Its first day.
        last: Its last day.
        days: close, open, low, high and volume by day, ascending.
    """

    sector: str
    first: date
    last: date
    days: pd.DataFrame


class PriceRecords(Connection):
    """What was dropped, and the prices that came of it."""

    # Drops

    def register_drop(self, key: str, sha256: str, file_name: str, size: int) -> Drop:
        """Note a kept file; the same bytes are the same drop, whatever their name."""
        row = {"key": key, "sha256": sha256, "file_name": file_name, "size": size}
        with self._write() as connection:
            return _drop(register_drop(connection, row))

    def drop(self, key: str) -> Drop:
        """The drop of this partition key, which must be registered."""
        with self.engine.connect() as connection:
            return _drop(connection.execute(drops.select().where(drops.c.key == key)).one())

    def refuse_drop(self, key: str, error: str) -> None:
        """Note why a drop's file is no CSV of prices."""
        refusal = drops.update().where(drops.c.key == key).values(status="refused", error=error)
        with self._write() as connection:
            connection.execute(refusal)

    def store_drop(self, drop: Drop, validation: "Validation") -> Changes:
        """Write a validated drop: its prices, its rejected rows, its counts, its tickers.

        A price that a newer drop has told stays, whatever the order of validation.
        """
        with self._write() as connection:
            accepted = validation.accepted.assign(drop_id=drop.id)
            staged = self._stage(connection, prices, accepted)
            changed = {row.ticker: row for row in connection.execute(_changed_rows(staged))}
            before = {
                row.ticker: row
                for row in connection.execute(tickers.select().where(tickers.c.ticker.in_(changed)))
            }
            connection.execute(_taking(insert_into(connection, prices), staged))
            facts = connection.execute(_ticker_facts(changed)).all()
            self._upsert(
                connection,
                tickers,
                [
                    _ticker_row(fact, before.get(fact.ticker), changed[fact.ticker].first_changed)
                    for fact in facts
                ],
            )
            connection.execute(sa.delete(rejected_rows).where(rejected_rows.c.drop_id == drop.id))
            if len(validation.rejected):
                rejected = records(validation.rejected.assign(drop_id=drop.id))
                connection.execute(sa.insert(rejected_rows), rejected)
            known = connection.scalar(sa.select(drops.c.tickers).where(drops.c.id == drop.id))
            touched = sorted({*(known or ()), *changed})  # by an earlier run of it too
            counts: dict[str, Any] = {
                "rows_read": validation.rows_read,
                "accepted": len(validation.accepted),
                "collapsed": validation.collapsed,
                "rejected": len(validation.rejected),
                "rejections": dict(validation.broken_rules),
            }
            if changed:  # else nothing is there to score that was not before
                counts["scored"] = False
            connection.execute(
                drops.update()
                .where(drops.c.id == drop.id)
                .values(status="accepted", error=None, tickers=touched, **counts)
            )
            staged.drop(connection)
        return Changes(
            rows_new=sum(row.rows_new for row in changed.values()),
            rows_changed=sum(row.rows_changed for row in changed.values()),
            tickers_new=tuple(sorted(changed.keys() - before.keys())),
            tickers_updated=tuple(sorted(before)),
        )

    def rejected(self, key: str) -> pd.DataFrame:
        """The quarantined rows of a drop: line, raw, reasons; ascending by line."""
        query = (
            sa.select(rejected_rows.c.line, rejected_rows.c.raw, rejected_rows.c.reasons)
            .join(drops, drops.c.id == rejected_rows.c.drop_id)
            .where(drops.c.key == key)
            .order_by(rejected_rows.c.line)
        )
        with self.engine.connect() as connection:
            return frame(connection.execute(query))

    # Prices and tickers

    def read_prices(self, wanted: Collection[str] | None = None) -> pd.DataFrame:
        """The prices of these tickers, or of all, ascending by ticker and date.

        Returns:
            ticker, date, sector, close, open, low, high, volume, and price_revision, which counts
            the changes of a ticker's prices.
        """
        query = (
            sa.select(*(c for c in prices.c if c.name != "drop_id"), tickers.c.price_revision)
            .join(tickers, tickers.c.ticker == prices.c.ticker)
            .order_by(prices.c.ticker, prices.c.date)
        )
        if wanted is not None:
            query = query.where(prices.c.ticker.in_(wanted))
        with self.engine.connect() as connection:
            cursor: Any = connection.execute(query).cursor  # its rows are read twice as fast
            chunks = [_next_prices(cursor)]
            while len(chunks[-1]) == _CHUNK:
                chunks.append(_next_prices(cursor))
        return pd.concat(chunks, ignore_index=True)

    def last_prices(self, wanted: Collection[str], days: int) -> dict[str, LastPrices]:
        """The last days of those of these tickers that have any."""
        age = sa.func.row_number().over(partition_by=prices.c.ticker, order_by=prices.c.date.desc())
        aged = sa.select(prices, age.label("age")).where(prices.c.ticker.in_(wanted)).subquery()
        values = ("date", "close", "open", "low", "high", "volume")
        query = (
            sa.select(
                tickers.c.ticker,
                tickers.c.sector,
                tickers.c.first_date,
                tickers.c.last_date,
                *(aged.c[name] for name in values),
            )
            .join(aged, aged.c.ticker == tickers.c.ticker)
            .where(aged.c.age <= days)
            .order_by(aged.c.ticker, aged.c.date)
        )
        with self.engine.connect() as connection:
            rows = frame(connection.execute(query))
        index = pd.to_datetime(rows["date"]).astype("datetime64[ns]")
        rows[list(values[1:])] = rows[list(values[1:])].astype(float)
        return {
            str(ticker): LastPrices(
                sector=of_ticker["sector"].iloc[0],
                first=of_ticker["first_date"].iloc[0],
                last=of_ticker["last_date"].iloc[0],
                days=of_ticker[list(values[1:])].set_axis(index[of_ticker.index]),
            )
            for ticker, of_ticker in rows.groupby("ticker")
        }

    def ticker_states(self) -> list[TickerState]:
        """What each ticker with prices is in need of, ascending by ticker."""
        needs_forecast = sa.or_(
            sa.func.coalesce(tickers.c.forecast_revision, 0) < tickers.c.price_revision,
            tickers.c.forecast_due.is_not(None),
            tickers.c.training_due.is_not(None),
        )
        needs_training = sa.or_(
            tickers.c.training_due.is_not(None),
            tickers.c.model_version.is_(None),
            tickers.c.model_revision < tickers.c.history_revision,
            tickers.c.days >= GROWTH * tickers.c.model_days,
        )
        query = sa.select(
            tickers.c.ticker,
            tickers.c.price_revision,
            tickers.c.last_date,
            tickers.c.days,
            needs_forecast,
            needs_training,
            sa.func.coalesce(tickers.c.training_due, tickers.c.forecast_due, ""),
        ).order_by(tickers.c.ticker)
        with self.engine.connect() as connection:
            return [
                TickerState(ticker, revision, last, days, bool(forecast), bool(training), due)
                for ticker, revision, last, days, forecast, training, due in connection.execute(
                    query
                )
            ]


_CHUNK = 1 << 16  # rows of prices that are read at once
_READ_ROW = np.dtype(
    [
        *((name, "O") for name in ("ticker", "date", "sector")),
        *((name, "f8") for name in ("close", "open", "low", "high")),
        *((name, "i8") for name in ("volume", "price_revision")),
    ]
)


def _next_prices(cursor: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """The next rows of prices; each different text in them is kept once."""
    rows = np.fromiter(islice(cursor, _CHUNK), _READ_ROW)
    columns = {name: rows[name] for name in _READ_ROW.names or ()}
    for name in ("ticker", "date", "sector"):
        codes, different = pd.factorize(columns[name])
        if name == "date":  # a day on PostgreSQL, its text on SQLite
            different = pd.to_datetime(different).to_numpy("datetime64[ns]")
        columns[name] = different[codes]
    return pd.DataFrame(columns)


def _drop(row: sa.Row[Any]) -> Drop:
    return Drop(**{field.name: getattr(row, field.name) for field in fields(Drop)})


def _changed_rows(staged: sa.Table) -> sa.Select[Any]:
    """Per ticker: staged rows that are new, rows whose values will change, the first such day."""
    values = ("sector", "close", "open", "low", "high", "volume")
    is_new = prices.c.ticker.is_(None)
    is_changed = sa.and_(
        prices.c.drop_id <= staged.c.drop_id,
        sa.or_(*(prices.c[name] != staged.c[name] for name in values)),
    )
    return (
        sa.select(
            staged.c.ticker,
            sa.func.sum(sa.case((is_new, 1), else_=0)).label("rows_new"),
            sa.func.sum(sa.case((is_new, 0), else_=1)).label("rows_changed"),
            sa.func.min(staged.c.date).label("first_changed"),
        )
        .join(prices, same(staged, prices.c, "ticker", "date"), isouter=True)
        .where(sa.or_(is_new, is_changed))
        .group_by(staged.c.ticker)
    )


def _taking(insert: Any, staged: sa.Table) -> Any:
    """Insert the staged rows into prices, where no newer drop has told them."""
    names = list(staged.c.keys())
    insert = insert.from_select(names, sa.select(staged).where(sa.true()))
    return insert.on_conflict_do_update(
        index_elements=list(prices.primary_key),
        set_={name: insert.excluded[name] for name in names[2:]},
        where=prices.c.drop_id <= insert.excluded.drop_id,
    )


def _ticker_facts(wanted: Collection[str]) -> sa.Select[Any]:
    """First day, last day, days and the newest sector of tickers."""
    spans = (
        sa.select(
            prices.c.ticker,
            sa.func.min(prices.c.date).label("first_date"),
            sa.func.max(prices.c.date).label("last_date"),
            sa.func.count().label("days"),
        )
        .where(prices.c.ticker.in_(wanted))
        .group_by(prices.c.ticker)
        .subquery()
    )
    return sa.select(spans, prices.c.sector).join(
        prices, (prices.c.ticker == spans.c.ticker) & (prices.c.date == spans.c.last_date)
    )


def _ticker_row(fact: Any, before: Any, first_changed: date) -> dict[str, Any]:
    """The tickers row after a change; one that only appends leaves the history revision."""
    revision = before.price_revision + 1 if before else 1
    appended = before is not None and first_changed > before.last_date
    return {
        "ticker": fact.ticker,
        "sector": fact.sector,
        "first_date": fact.first_date,
        "last_date": fact.last_date,
        "days": fact.days,
        "price_revision": revision,
        "history_revision": before.history_revision if appended else revision,
    }
