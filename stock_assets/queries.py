"""Queries that more than one reader asks, and how a drop is registered."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from stock_assets.tables import (
    champions,
    daily_scores,
    drops,
    forecasts,
    model_versions,
    prices,
    tickers,
)


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:
    """An insert that can say what to do where the key is there already."""
    dialect = postgresql if connection.engine.name == "postgresql" else sqlite
    return dialect.insert(table)


def same(table: sa.Table, other: Any, *names: str) -> sa.ColumnElement[bool]:
    """Whether two tables agree in these columns."""
    return sa.and_(*(table.c[name] == other[name] for name in names))


def register_drop(connection: sa.Connection, row: Mapping[str, Any]) -> sa.Row[Any]:
    """Note a file: key, sha256, file_name and size; the same bytes are the same drop."""
    insert = insert_into(connection, drops).values(**row, status="registered")
    connection.execute(insert.on_conflict_do_nothing())
    return connection.execute(drops.select().where(drops.c.sha256 == row["sha256"])).one()


def current_models() -> sa.ColumnElement[bool]:
    """A model_versions row of the training that forecasts for its ticker."""
    return (tickers.c.ticker == model_versions.c.ticker) & (
        tickers.c.model_version == model_versions.c.version
    )


def newest_champions() -> sa.Select[Any]:
    """The champions so far, the newest first."""
    return champions.select().order_by(champions.c.id.desc())


def is_current() -> sa.ColumnElement[bool]:
    """Whether a forecast knows all prices of its ticker."""
    knows_all = sa.and_(
        tickers.c.forecast_revision >= tickers.c.price_revision,
        tickers.c.last_date == forecasts.c.as_of,
    )
    return sa.func.coalesce(knows_all, sa.false())


def newest_forecasts(by: Any = None) -> sa.Select[Any]:
    """The newest forecasts of tickers, by all their models, ascending by ticker and h.

    Args:
        by: A day, or a parameter for one: of those that were told by its end.

    Returns:
        The forecasts columns, sector and last_close; of the model's backtest days, origins,
        mae_ratio, mae_ratio_h10, coverage_80 and coverage_95; whether it is_current.
    """
    told, of_version = forecasts.alias(), model_versions.c
    newest = sa.select(sa.func.max(told.c.as_of)).where(told.c.ticker == tickers.c.ticker)
    if by is not None:
        newest = newest.where(told.c.as_of <= by)
    return (
        sa.select(
            forecasts,
            tickers.c.sector,
            prices.c.close.label("last_close"),
            of_version.days,
            of_version.origins,
            of_version.mae_ratio,
            of_version.mae_ratio_h10,
            of_version.coverage_80,
            of_version.coverage_95,
            is_current().label("is_current"),
        )
        .select_from(tickers)
        .join(
            forecasts,
            (forecasts.c.ticker == tickers.c.ticker)
            & (forecasts.c.as_of == newest.scalar_subquery()),
        )
        .join(
            prices,
            (prices.c.ticker == forecasts.c.ticker) & (prices.c.date == forecasts.c.as_of),
        )
        .join(
            model_versions,
            same(forecasts, of_version, "ticker", "model")
            & (of_version.version == forecasts.c.model_version),
        )
        .order_by(forecasts.c.ticker, forecasts.c.h)
    )


def last_days(days: int) -> sa.Select[Any]:
    """The last days of which a forecast is scored."""
    return (
        sa.select(daily_scores.c.as_of).distinct().order_by(daily_scores.c.as_of.desc()).limit(days)
    )


def _share(inside: sa.Column[int]) -> sa.ColumnElement[float]:
    return sa.cast(sa.func.sum(inside), sa.Float(53)) / sa.func.sum(daily_scores.c.forecasts)


MEANS = (  # of some daily scores
    (
        sa.func.sum(daily_scores.c.error)
        / sa.func.nullif(sa.func.sum(daily_scores.c.naive_error), 0)
    ).label("mae_ratio"),
    _share(daily_scores.c.inside_80).label("coverage_80"),
    _share(daily_scores.c.inside_95).label("coverage_95"),
)


def live_records(days: int) -> sa.Select[Any]:
    """How each model did on the last days that are scored, ascending by model.

    Returns:
        model, days (how many of them), forecasts, mae_ratio to naive, coverage_80, coverage_95.
    """
    return (
        sa.select(
            daily_scores.c.model,
            sa.func.count(daily_scores.c.as_of.distinct()).label("days"),
            sa.func.sum(daily_scores.c.forecasts).label("forecasts"),
            *MEANS,
        )
        .where(daily_scores.c.as_of.in_(last_days(days)))
        .group_by(daily_scores.c.model)
        .order_by(daily_scores.c.model)
    )
