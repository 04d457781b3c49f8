"""What the prediction database tells of data, models and forecasts, as metrics."""

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from stock_assets import metrics
from stock_assets.api.reader import utc
from stock_assets.metrics import Facts
from stock_assets.queries import current_models, live_records
from stock_assets.tables import (
    drops,
    forecasts,
    market_models,
    model_versions,
    tickers,
)

LIVE_DAYS = 60  # of trading, as in the choice of the champion
_STATUSES = ("registered", "accepted", "refused")
_COUNTS = {
    metrics.ROWS_READ: drops.c.rows_read,
    metrics.ROWS_ACCEPTED: drops.c.accepted,
    metrics.ROWS_COLLAPSED: drops.c.collapsed,
    metrics.ROWS_REJECTED: drops.c.rejected,
}


def read_figures(connection: sa.Connection, today: date) -> Facts:
    """All of them.

    Args:
        connection: To the prediction database.
        today: Trading days before it have passed.
    """
    return {
        **_of_drops(connection),
        **_of_tickers(connection, today),
        **_of_forecasts(connection),
        **_of_scores(connection),
    }


def _of_drops(connection: sa.Connection) -> Facts:
    by_status = sa.select(drops.c.status, sa.func.count()).group_by(drops.c.status)
    counted = dict(connection.execute(by_status).tuples().all())
    sums = sa.select(
        sa.func.max(drops.c.created_at),
        *(sa.func.coalesce(sa.func.sum(column), 0) for column in _COUNTS.values()),
    ).where(drops.c.status == "accepted")
    newest, *rows = connection.execute(sums).one()
    each = _pairs(connection, drops.c.rejections)
    broken = (
        sa.select(each.c.key, sa.func.sum(sa.cast(each.c.value, sa.BigInteger)))
        .select_from(drops.join(each, sa.true()))
        .where(drops.c.rejected > 0)
        .group_by(each.c.key)
    )
    return {
        metrics.DROPS: {(status,): counted.get(status, 0) for status in _STATUSES},
        metrics.LAST_DROP: _moment(newest),
        **{fact: {(): count} for fact, count in zip(_COUNTS, rows, strict=True)},
        metrics.REJECTIONS: {(reason,): rows for reason, rows in connection.execute(broken)},
    }


def _of_tickers(connection: sa.Connection, today: date) -> Facts:
    newest = sa.select(sa.func.max(tickers.c.last_date)).scalar_subquery()
    told = sa.func.coalesce(tickers.c.forecast_revision, 0)
    counts = sa.select(
        sa.func.count().filter(told >= tickers.c.price_revision),
        sa.func.count().filter((told < tickers.c.price_revision) & (told > 0)),
        sa.func.count().filter(told == 0),
        sa.func.count().filter(tickers.c.last_date < newest),
    ).select_from(tickers)
    current, stale, missing, behind = connection.execute(counts).one()
    # The days of a forecast are trading days: those of the newest one tell which have passed.
    knows = (
        sa.select(tickers.c.ticker, tickers.c.last_date)
        .where(told >= tickers.c.price_revision)
        .order_by(tickers.c.last_date.desc(), tickers.c.ticker)
        .limit(1)
        .subquery()
    )
    passed = (
        sa.select(sa.func.count(forecasts.c.h.distinct()))
        .join(
            knows, (forecasts.c.ticker == knows.c.ticker) & (forecasts.c.as_of == knows.c.last_date)
        )
        .where(
            forecasts.c.target_date > newest,
            forecasts.c.target_date < today,
        )
    )
    return {
        metrics.TICKERS: {("current",): current, ("stale",): stale, ("missing",): missing},
        metrics.TICKERS_BEHIND: {(): behind},
        metrics.SESSIONS_WITHOUT_PRICES: {(): connection.scalar(passed) or 0},
    }


def _of_forecasts(connection: sa.Connection) -> Facts:
    stored: Any = sa.select(sa.func.count()).select_from(forecasts)
    if connection.engine.name == "postgresql":  # counting hundreds of millions takes minutes
        stored = sa.text(
            "SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = 'forecasts'::regclass"
        )
    # A query for each ticker, as a join would read all forecasts that there ever were.
    champion = (
        sa.select(forecasts.c.model)
        .where(
            forecasts.c.ticker == tickers.c.ticker,
            forecasts.c.as_of == tickers.c.last_date,
            forecasts.c.h == 1,
            forecasts.c.is_champion,
        )
        .correlate(tickers)
    )
    each = sa.select(champion.scalar_subquery().label("model")).select_from(tickers).subquery()
    by_champion = (
        sa.select(each.c.model, sa.func.count())
        .where(each.c.model.is_not(None))
        .group_by(each.c.model)
    )
    ratios = (
        sa.select(model_versions.c.model, sa.func.avg(model_versions.c.mae_ratio))
        .join(tickers, current_models())
        .where(model_versions.c.mae_ratio.is_not(None))
        .group_by(model_versions.c.model)
    )
    trained = connection.scalar(sa.select(sa.func.max(market_models.c.created_at)))
    return {
        metrics.FORECASTS: {(): connection.scalar(stored) or 0},
        metrics.CHAMPION_TICKERS: {(model,): n for model, n in connection.execute(by_champion)},
        metrics.BACKTEST_RATIO: {(model,): ratio for model, ratio in connection.execute(ratios)},
        metrics.MARKET_MODEL_TRAINED: _moment(trained),
    }


def _of_scores(connection: sa.Connection) -> Facts:
    rows = connection.execute(live_records(LIVE_DAYS)).all()
    return {
        metrics.SCORED_SESSIONS: {(): max((row.days for row in rows), default=0)},
        metrics.LIVE_RATIO: {
            (row.model,): row.mae_ratio for row in rows if row.mae_ratio is not None
        },
        metrics.COVERAGE: {
            (row.model, interval): share
            for row in rows
            for interval, share in (("80", row.coverage_80), ("95", row.coverage_95))
        },
    }


def _moment(at: datetime | None) -> dict[tuple[str, ...], float]:
    return {} if at is None else {(): utc(at).timestamp()}


def _pairs(connection: sa.Connection, column: sa.Column[Any]) -> Any:
    """The keys and values of a JSON object, as rows."""
    unfold = "jsonb_each_text" if connection.engine.name == "postgresql" else "json_each"
    return getattr(sa.func, unfold)(column).table_valued("key", "value")
