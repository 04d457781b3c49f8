"""The prediction database: idempotent writes, and the queries on it.

Every write is one transaction and may be repeated: the rows end up the same. One writer at a time,
on SQLite by its nature and on PostgreSQL by a lock, so that no two writers wait for each other.
"""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite

from stock_assets.errors import SetupError
from stock_assets.tables import (
    SCHEMA_REVISION,
    VERSION_TABLE,
    drops,
    forecasts,
    model_versions,
    prices,
    rejected_rows,
    tickers,
)

if TYPE_CHECKING:
    from stock_assets.prices import Validation

_GROWTH = 1.2  # a model is trained anew when its ticker's history has grown by a fifth
_SQLITE_WAIT_SECONDS = 60
_POSTGRES_LOCK = 7_301_867_462  # any number that is ours alone


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
        needs_forecast: Its prices changed after its last forecast.
        needs_training: It has no model, or prices changed that its model was trained on, or its
            history has grown by a fifth since.
    """

    ticker: str
    price_revision: int
    needs_forecast: bool
    needs_training: bool


class Database:
    """The prediction database at one address; connects, and migrates, on first use."""

    def __init__(self, url: str) -> None:
        """Remember the address, such as ``sqlite:///predictions.db``.

        Raises:
            SetupError: It is none.
        """
        try:
            self.url = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise SetupError(
                "STOCK_ASSETS_DATABASE_URL is no address of a database. "
                "Expected one such as postgresql://user:password@host/name"
            ) from error

    # Drops

    def register_drop(self, key: str, sha256: str, file_name: str, size: int) -> Drop:
        """Note a kept file; the same bytes are the same drop, whatever their name."""
        row = {"key": key, "sha256": sha256, "file_name": file_name, "size": size}
        with self._write() as connection:
            insert = self._insert(drops).values(**row, status="registered")
            connection.execute(insert.on_conflict_do_nothing())
            found = connection.execute(_select_drops().where(drops.c.sha256 == sha256)).one()
        return Drop(*found)

    def drop(self, key: str) -> Drop:
        """The drop of this partition key, which must be registered."""
        with self.engine.connect() as connection:
            return Drop(*connection.execute(_select_drops().where(drops.c.key == key)).one())

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
            self._stage(connection, validation.accepted, drop.id)
            changed = {row.ticker: row for row in connection.execute(_changed_rows())}
            before = {
                row.ticker: row
                for row in connection.execute(tickers.select().where(tickers.c.ticker.in_(changed)))
            }
            connection.execute(self._upsert_staged())
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
                rejected = _records(validation.rejected.assign(drop_id=drop.id))
                connection.execute(sa.insert(rejected_rows), rejected)
            counts = {
                "rows_read": validation.rows_read,
                "accepted": len(validation.accepted),
                "collapsed": validation.collapsed,
                "rejected": len(validation.rejected),
            }
            connection.execute(
                drops.update()
                .where(drops.c.id == drop.id)
                .values(status="accepted", error=None, **counts)
            )
            _staged.drop(connection)
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
            return _frame(connection.execute(query))

    # Prices and tickers

    def read_prices(self, wanted: Collection[str]) -> pd.DataFrame:
        """The prices of these tickers, ascending by ticker and date.

        Returns:
            ticker, date, sector, close, open, low, high, volume, and price_revision, which counts
            the changes of a ticker's prices.
        """
        query = (
            sa.select(*(c for c in prices.c if c.name != "drop_id"), tickers.c.price_revision)
            .join(tickers, tickers.c.ticker == prices.c.ticker)
            .where(prices.c.ticker.in_(wanted))
            .order_by(prices.c.ticker, prices.c.date)
        )
        with self.engine.connect() as connection:
            return pd.read_sql(query, connection, parse_dates=["date"])

    def ticker_states(self) -> list[TickerState]:
        """What each ticker with prices is in need of, ascending by ticker."""
        needs_forecast = sa.func.coalesce(tickers.c.forecast_revision, 0) < tickers.c.price_revision
        needs_training = sa.or_(
            tickers.c.model_version.is_(None),
            tickers.c.model_revision < tickers.c.history_revision,
            tickers.c.days >= _GROWTH * tickers.c.model_days,
        )
        query = sa.select(
            tickers.c.ticker, tickers.c.price_revision, needs_forecast, needs_training
        ).order_by(tickers.c.ticker)
        with self.engine.connect() as connection:
            return [
                TickerState(ticker, revision, bool(forecast), bool(training))
                for ticker, revision, forecast, training in connection.execute(query)
            ]

    # Models

    def save_training(
        self, rows: Sequence[Mapping[str, Any]], revisions: Mapping[str, int]
    ) -> None:
        """Write the models of a training, and make it the one that forecasts.

        Args:
            rows: Of the table model_versions; one training of any number of tickers.
            revisions: The price revision that each ticker was trained on. A training on older
                prices than the present one's is kept, but does not take its place.
        """
        with self._write() as connection:
            self._upsert(connection, model_versions, rows)
            for row in {row["ticker"]: row for row in rows}.values():
                ticker, revision = row["ticker"], revisions[row["ticker"]]
                connection.execute(
                    tickers.update()
                    .where(tickers.c.ticker == ticker)
                    .where(sa.func.coalesce(tickers.c.model_revision, 0) <= revision)
                    .values(
                        model_version=row["version"],
                        model_revision=revision,
                        model_days=row["days"],
                    )
                )

    def current_models(self, wanted: Collection[str]) -> pd.DataFrame:
        """The model_versions rows that forecast for these tickers."""
        query = (
            model_versions.select()
            .join(
                tickers,
                (tickers.c.ticker == model_versions.c.ticker)
                & (tickers.c.model_version == model_versions.c.version),
            )
            .where(tickers.c.ticker.in_(wanted))
            .order_by(model_versions.c.ticker, model_versions.c.model)
        )
        with self.engine.connect() as connection:
            return _frame(connection.execute(query))

    # Forecasts

    def save_forecasts(self, rows: pd.DataFrame, revisions: Mapping[str, int]) -> None:
        """Write forecasts, and that they are made of these price revisions.

        Those of a ticker that has one of newer prices already come too late and are left out.
        """
        with self._write() as connection:
            newest = dict(
                connection.execute(sa.select(tickers.c.ticker, tickers.c.forecast_revision))
                .tuples()
                .all()
            )
            in_time = [t for t, revision in revisions.items() if revision >= (newest[t] or 0)]
            rows = rows[rows["ticker"].isin(in_time)]
            if rows.empty:
                return
            self._upsert(connection, forecasts, _records(rows))
            connection.execute(
                tickers.update()
                .where(tickers.c.ticker == sa.bindparam("of"))
                .values(forecast_revision=sa.bindparam("revision")),
                [{"of": ticker, "revision": revisions[ticker]} for ticker in in_time],
            )
            trainings = _records(rows[["ticker", "as_of", "model_version"]].drop_duplicates())
            # A model that is gone from the dictionary keeps its last forecast, but not its title.
            connection.execute(
                forecasts.update()
                .where(forecasts.c.ticker == sa.bindparam("of"))
                .where(forecasts.c.as_of == sa.bindparam("day"))
                .where(forecasts.c.model_version != sa.bindparam("version"))
                .values(is_champion=False),
                [dict(zip(("of", "day", "version"), t.values(), strict=True)) for t in trainings],
            )

    def champion_forecasts(self, wanted: Collection[str]) -> pd.DataFrame:
        """The newest forecast of each ticker's champion, ascending by ticker and h.

        Returns:
            The forecasts columns, and last_close, reason, mae_ratio and mae_ratio_h10.
        """
        newest = (
            sa.select(forecasts.c.ticker, sa.func.max(forecasts.c.as_of).label("as_of"))
            .where(forecasts.c.ticker.in_(wanted))
            .group_by(forecasts.c.ticker)
            .subquery()
        )
        of_version = model_versions.c
        query = (
            sa.select(
                forecasts,
                prices.c.close.label("last_close"),
                of_version.reason,
                of_version.mae_ratio,
                of_version.mae_ratio_h10,
            )
            .join(newest, _same(forecasts, newest.c, "ticker", "as_of"))
            .join(
                prices,
                (prices.c.ticker == forecasts.c.ticker) & (prices.c.date == forecasts.c.as_of),
            )
            .join(
                model_versions,
                _same(forecasts, of_version, "ticker", "model")
                & (of_version.version == forecasts.c.model_version),
            )
            .where(forecasts.c.is_champion)
            .order_by(forecasts.c.ticker, forecasts.c.h)
        )
        with self.engine.connect() as connection:
            return _frame(connection.execute(query))

    # Connections

    @cached_property
    def engine(self) -> sa.Engine:
        """Connected, and with the newest tables.

        Raises:
            SetupError: The database does not answer.
        """
        if self.url.get_backend_name() == "sqlite":
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            engine = sa.create_engine(self.url, connect_args={"timeout": _SQLITE_WAIT_SECONDS})
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = sa.create_engine(self.url, pool_pre_ping=True)
        try:
            _migrate(engine)
        except sa.exc.OperationalError as error:
            raise SetupError(
                f"The database {self.url.render_as_string()} cannot be used: {error.orig}"
            ) from error
        return engine

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _writing(self.engine) as connection:
            yield connection

    @property
    def _insert(self) -> Any:
        return postgresql.insert if self.engine.name == "postgresql" else sqlite.insert

    def _upsert(
        self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows; where the key is there already, update what differs."""
        if not rows:
            return
        insert = self._insert(table)
        values = [c.name for c in table.c if c.name in rows[0] and not c.primary_key]
        differs = [table.c[name].is_distinct_from(insert.excluded[name]) for name in values]
        written = [*values, *(["created_at"] if "created_at" in table.c else [])]
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(table.primary_key),
                set_={name: insert.excluded[name] for name in written},
                where=sa.or_(*differs),
            ),
            list(rows),
        )

    def _upsert_staged(self) -> Any:
        names = [column.name for column in prices.c]
        insert = self._insert(prices)
        insert = insert.from_select(names, sa.select(_staged).where(sa.true()))
        return insert.on_conflict_do_update(
            index_elements=list(prices.primary_key),
            set_={name: insert.excluded[name] for name in names[2:]},
            where=prices.c.drop_id <= insert.excluded.drop_id,
        )

    def _stage(self, connection: sa.Connection, accepted: pd.DataFrame, drop_id: int) -> None:
        """Bring the accepted rows to the server in one go."""
        _staged.create(connection)
        names = [column.name for column in _staged.c]
        rows = accepted.assign(drop_id=drop_id)[names]
        if connection.engine.name == "postgresql":
            text = io.StringIO(rows.to_csv(index=False, header=False, date_format="%Y-%m-%d"))
            cursor: Any = connection.connection.cursor()
            cursor.copy_expert("COPY staged_prices FROM STDIN WITH (FORMAT csv)", text)
            return
        days = np.datetime_as_string(rows["date"].to_numpy("datetime64[D]"))
        columns = [rows[name].tolist() for name in names]
        columns[names.index("date")] = days.tolist()
        if len(rows):
            marks = ", ".join("?" * len(names))
            connection.exec_driver_sql(
                f"INSERT INTO staged_prices VALUES ({marks})",  # noqa: S608
                list(zip(*columns, strict=True)),
            )


_version = sa.table(VERSION_TABLE, sa.column("version_num"))
_staged = sa.Table(
    "staged_prices",
    sa.MetaData(),
    *(sa.Column(column.name, column.type) for column in prices.c),
    prefixes=["TEMPORARY"],
)


def _frame(result: sa.CursorResult[Any]) -> pd.DataFrame:
    return pd.DataFrame(result.all(), columns=list(result.keys()))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): value for k, value in row.items()} for row in frame.to_dict("records")]


def _select_drops() -> sa.Select[Any]:
    """The columns that a `Drop` takes."""
    return sa.select(*(drops.c[field.name] for field in fields(Drop)))


def _same(table: sa.Table, other: Any, *names: str) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == other[name] for name in names))


def _changed_rows() -> sa.Select[Any]:
    """Per ticker: staged rows that are new, rows whose values will change, the first such day."""
    values = ("sector", "close", "open", "low", "high", "volume")
    is_new = prices.c.ticker.is_(None)
    is_changed = sa.and_(
        prices.c.drop_id <= _staged.c.drop_id,
        sa.or_(*(prices.c[name] != _staged.c[name] for name in values)),
    )
    return (
        sa.select(
            _staged.c.ticker,
            sa.func.sum(sa.case((is_new, 1), else_=0)).label("rows_new"),
            sa.func.sum(sa.case((is_new, 0), else_=1)).label("rows_changed"),
            sa.func.min(_staged.c.date).label("first_changed"),
        )
        .join(prices, _same(_staged, prices.c, "ticker", "date"), isouter=True)
        .where(sa.or_(is_new, is_changed))
        .group_by(_staged.c.ticker)
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


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes its lock at once: one that has read first could not wait for another."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is the only writing one."""
    with engine.execution_options(writes=True).begin() as connection:
        if engine.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
        yield connection


def _migrate(engine: sa.Engine) -> None:
    """Bring the tables to the newest revision; another process may be at it too."""
    with engine.connect() as connection:
        if sa.inspect(connection).has_table(VERSION_TABLE):
            version = connection.scalar(sa.select(_version.c.version_num))
            if version == SCHEMA_REVISION:
                return
    scripts = Config()
    scripts.set_main_option("script_location", "stock_assets:migrations")
    with _writing(engine) as connection:
        scripts.attributes["connection"] = connection
        command.upgrade(scripts, "head")
