"""Models, forecasts, what became of them, and the champion, in the prediction database."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
import sqlalchemy as sa

from stock_assets.connection import Connection, frame, records
from stock_assets.queries import (
    MEANS,
    current_models,
    insert_into,
    last_days,
    live_records,
    newest_champions,
    newest_forecasts,
    same,
)
from stock_assets.tables import (
    champions,
    daily_scores,
    drops,
    forecast_scores,
    forecasts,
    interval_widths,
    market_models,
    model_versions,
    prices,
    tickers,
)

NAIVE = "naive"  # the one that every ticker has
SHOWN = "champion"  # in place of a model: what people were shown
SPLIT = 1.2  # an old close that is so many times another: five shares became six, or more
_DAYS_AT_ONCE = 1_000


@dataclass(frozen=True)
class Champion:
    """Whose forecasts people are shown.

    Attributes:
        model: Its name.
        reason: Why, in a sentence.
        pinned: Whether a person chose it; it stays until it is released.
    """

    model: str
    reason: str
    pinned: bool


class ForecastRecords(Connection):
    """What was learned and told, and how it turned out."""

    # What all tickers tell together

    def save_market_model(self, row: Mapping[str, Any]) -> None:
        """Note a training of the pooled models; the newest one forecasts."""
        with self._write() as connection:
            newest = connection.execute(_market_models()).first()
            if newest is None or newest.version != row["version"]:
                connection.execute(
                    market_models.delete().where(market_models.c.version == row["version"])
                )
                connection.execute(market_models.insert().values(**row))

    def market_model(self) -> dict[str, Any] | None:
        """The newest training of the pooled models."""
        with self.engine.connect() as connection:
            row = connection.execute(_market_models()).mappings().first()
            return dict(row) if row else None

    def save_interval_widths(self, rows: pd.DataFrame) -> None:
        """Replace the widths of intervals: date, h, width_80, width_95."""
        with self._write() as connection:
            self._upsert_all(connection, interval_widths, rows)
            connection.execute(
                interval_widths.delete().where(interval_widths.c.date > rows["date"].max())
            )

    def interval_widths(self) -> pd.DataFrame:
        """The widths of intervals by day: date, h, width_80, width_95; ascending."""
        query = interval_widths.select().order_by(interval_widths.c.date, interval_widths.c.h)
        with self.engine.connect() as connection:
            return frame(connection.execute(query))

    # Models of single tickers

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
            trained = {row["ticker"]: row for row in rows}
            connection.execute(
                tickers.update()
                .where(tickers.c.ticker == sa.bindparam("of"))
                .where(sa.func.coalesce(tickers.c.model_revision, 0) <= sa.bindparam("revision"))
                .values(
                    model_version=sa.bindparam("version"),
                    model_revision=sa.bindparam("revision"),
                    model_days=sa.bindparam("of_days"),
                    training_due=None,
                ),
                [
                    {"of": ticker, "revision": revisions[ticker]}
                    | {"version": row["version"], "of_days": row["days"]}
                    for ticker, row in trained.items()
                ],
            )

    def current_models(self, wanted: Collection[str]) -> pd.DataFrame:
        """The model_versions rows that forecast for these tickers."""
        query = (
            model_versions.select()
            .join(tickers, current_models())
            .where(tickers.c.ticker.in_(wanted))
            .order_by(model_versions.c.ticker, model_versions.c.model)
        )
        with self.engine.connect() as connection:
            return frame(connection.execute(query))

    def last_trained(self, wanted: Collection[str]) -> dict[str, date]:
        """The last day that each ticker's current models were trained on, if it has any."""
        query = (
            sa.select(model_versions.c.ticker, sa.func.max(model_versions.c.trained_to))
            .join(tickers, current_models())
            .where(tickers.c.ticker.in_(wanted))
            .group_by(model_versions.c.ticker)
        )
        with self.engine.connect() as connection:
            return dict(connection.execute(query).tuples().all())

    def mark_training_due(self, reasons: Mapping[str, str]) -> None:
        """Note why tickers have to be trained anew; training them takes the note away."""
        if reasons:
            note = (
                tickers.update()
                .where(tickers.c.ticker == sa.bindparam("of"))
                .values(training_due=sa.bindparam("why"))
            )
            with self._write() as connection:
                rows = [{"of": ticker, "why": reason} for ticker, reason in reasons.items()]
                connection.execute(note, rows)

    def mark_forecasts_due(self, reason: str) -> int:
        """Note that every ticker is to be forecast anew; returns how many there are."""
        with self._write() as connection:
            return connection.execute(tickers.update().values(forecast_due=reason)).rowcount

    def leaderboard(self) -> pd.DataFrame:
        """How the current models did in their backtests, over all tickers.

        Returns:
            model, tickers, mae (log return), mae_ratio to naive, coverage_80 and coverage_95;
            the best first.
        """
        current, of_version = current_models(), model_versions.c
        weighted = {
            name: sa.func.sum(of_version[name] * of_version.origins)
            / sa.func.sum(of_version.origins)
            for name in ("mae", "coverage_80", "coverage_95")
        }
        naive_mae = sa.func.sum(of_version.mae / of_version.mae_ratio * of_version.origins)
        query = (
            sa.select(
                of_version.model,
                sa.func.count().label("tickers"),
                weighted["mae"].label("mae"),
                (sa.func.sum(of_version.mae * of_version.origins) / naive_mae).label("mae_ratio"),
                weighted["coverage_80"].label("coverage_80"),
                weighted["coverage_95"].label("coverage_95"),
            )
            .join(tickers, current)
            .where(of_version.origins > 0, of_version.mae_ratio > 0)
            .group_by(of_version.model)
            .having(naive_mae > 0)
            .order_by("mae_ratio", of_version.model)
        )
        with self.engine.connect() as connection:
            return frame(connection.execute(query))

    # The champion

    def backtest_gains(self) -> dict[str, list[dict[str, list[float]]]]:
        """The gains of each model's current backtests, one mapping a ticker."""
        query = (
            sa.select(model_versions.c.model, model_versions.c.gains)
            .join(tickers, current_models())
            .where(model_versions.c.origins > 0)
        )
        found = defaultdict(list)
        with self.engine.connect() as connection:
            for model, gains in connection.execute(query):
                found[model].append(gains or {})
        return dict(found)

    def champion(self) -> Champion:
        """The present champion; the naive forecast before one was chosen."""
        history = self.champions(1)
        if history.empty:
            return Champion(NAIVE, "nothing was backtested yet", pinned=False)
        last = history.iloc[0]
        return Champion(last["model"], last["reason"], bool(last["pinned"]))

    def champions(self, at_most: int = 20) -> pd.DataFrame:
        """The champions so far, the newest first: model, reason, pinned, created_at."""
        with self.engine.connect() as connection:
            return frame(connection.execute(newest_champions().limit(at_most)))

    def crown(self, champion: Champion) -> None:
        """Make a model the champion from now on: of the newest forecasts as well.

        A ticker that lacks the model, as its history is too short, keeps the naive forecast. What
        was told before the newest prices stays as it was told.
        """
        with self._write() as connection:
            last = connection.execute(newest_champions().limit(1)).first()
            if last and (last.model, last.pinned) == (champion.model, champion.pinned):
                connection.execute(
                    champions.update()
                    .where(champions.c.id == last.id)
                    .values(reason=champion.reason)
                )
            else:
                connection.execute(champions.insert().values(**vars(champion)))
            versions, told = model_versions.alias(), forecasts.alias()
            of_training = same(model_versions, versions.c, "ticker", "version")
            of_telling = same(forecasts, told.c, "ticker", "as_of", "model_version")
            crowned = _is_crowned(model_versions.c.model, versions, of_training, champion.model)
            connection.execute(
                model_versions.update()
                .where(model_versions.c.is_champion.is_distinct_from(crowned))
                .values(is_champion=crowned)
            )
            is_current = sa.exists().where(of_telling, told.c.model == NAIVE)
            crowned = sa.and_(
                is_current, _is_crowned(forecasts.c.model, told, of_telling, champion.model)
            )
            connection.execute(
                forecasts.update()
                .where(
                    sa.tuple_(forecasts.c.ticker, forecasts.c.as_of).in_(
                        sa.select(tickers.c.ticker, tickers.c.last_date)
                    ),
                    forecasts.c.is_champion.is_distinct_from(crowned),
                )
                .values(is_champion=crowned)
            )

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
            self._upsert_all(connection, forecasts, rows)
            connection.execute(
                tickers.update()
                .where(tickers.c.ticker == sa.bindparam("of"))
                .values(forecast_revision=sa.bindparam("revision"), forecast_due=None),
                [{"of": ticker, "revision": revisions[ticker]} for ticker in in_time],
            )
            trainings = records(rows[["ticker", "as_of", "model_version"]].drop_duplicates())
            # A model that is gone from the dictionary keeps its last forecast, but not its title.
            connection.execute(
                forecasts.update()
                .where(forecasts.c.ticker == sa.bindparam("of"))
                .where(forecasts.c.as_of == sa.bindparam("day"))
                .where(forecasts.c.model_version != sa.bindparam("version"))
                .values(is_champion=False),
                [dict(zip(("of", "day", "version"), t.values(), strict=True)) for t in trainings],
            )
            # Where a close was there before its forecast, its drop has to be looked at once more.
            came_late = sa.exists().where(
                tickers.c.ticker == forecasts.c.ticker, tickers.c.last_date > forecasts.c.as_of
            )
            outcomes = (
                sa.select(prices.c.drop_id)
                .join(forecasts, _outcome())
                .where(
                    came_late,
                    forecasts.c.ticker.in_(in_time),
                    forecasts.c.as_of >= rows["as_of"].min(),
                )
            )
            connection.execute(drops.update().where(drops.c.id.in_(outcomes)).values(scored=False))

    def champion_forecasts(self, wanted: Collection[str]) -> pd.DataFrame:
        """The newest forecast of each ticker's champion, ascending by ticker and h.

        Returns:
            As `newest_forecasts` tells.
        """
        query = newest_forecasts().where(tickers.c.ticker.in_(wanted), forecasts.c.is_champion)
        with self.engine.connect() as connection:
            return frame(connection.execute(query))

    # What became of them

    def score_forecasts(self) -> int:
        """Compare forecasts with the closes of drops that came since; returns how many it scored.

        An error is the log of the actual close divided by the one that was told, and the naive
        error the same of what the naive model told on that day.
        """
        came = prices.c.drop_id.in_(sa.select(drops.c.id).where(_unscored()))
        span = sa.select(sa.func.min(prices.c.date), sa.func.max(prices.c.date)).where(came)
        with self._write() as connection:
            between = forecasts.c.target_date.between(*connection.execute(span).one())
            scores = _scores().where(came, between)
            by_day = scores.with_only_columns(forecasts.c.as_of, forecasts.c.h).distinct()
            days = [tuple(day) for day in connection.execute(by_day)]
            names = [column.name for column in scores.selected_columns]
            insert = insert_into(connection, forecast_scores).from_select(names, scores)
            values = {name: insert.excluded[name] for name in names[4:]}
            differs = [forecast_scores.c[name].is_distinct_from(v) for name, v in values.items()]
            scored = connection.execute(
                insert.on_conflict_do_update(
                    index_elements=list(forecast_scores.primary_key),
                    set_=values,
                    where=sa.or_(*differs),
                )
            ).rowcount
            _add_up(connection, days)
            connection.execute(drops.update().where(_unscored()).values(scored=True))
        return scored

    def is_scored(self) -> bool:
        """Whether forecasts were compared with the closes of every drop."""
        with self.engine.connect() as connection:
            return connection.execute(drops.select().where(_unscored())).first() is None

    def live_records(self, days: int) -> pd.DataFrame:
        """How each model did in production on the last days that are scored.

        Returns:
            model, days (how many of them), forecasts, mae_ratio to naive, coverage_80,
            coverage_95; ascending by model. The row `champion` is what people were shown.
        """
        with self.engine.connect() as connection:
            found = frame(connection.execute(live_records(days)))
        return found.astype({"mae_ratio": float})  # missing where no price moved

    def rolling_scores(self, days: int) -> pd.DataFrame:
        """What people were shown, by day: as_of, h, mae_ratio, coverage_80, coverage_95."""
        by = (daily_scores.c.as_of, daily_scores.c.h)
        query = (
            sa.select(*by, *MEANS)
            .where(daily_scores.c.model == SHOWN, daily_scores.c.as_of.in_(last_days(days)))
            .group_by(*by)
            .order_by(*by)
        )
        with self.engine.connect() as connection:
            return frame(connection.execute(query))

    def live_errors(self, days: int) -> pd.DataFrame:
        """Errors of what people were shown against the backtest: ticker, days, ratio of the two.

        Tickers of which no forecast since their last training is scored are left out.
        """
        mean = sa.func.avg(sa.func.abs(forecast_scores.c.error))
        backtest = model_versions.c.mae
        query = (
            sa.select(
                forecast_scores.c.ticker,
                sa.func.count(forecast_scores.c.as_of.distinct()).label("days"),
                (mean / backtest).label("ratio"),
            )
            .join(forecasts, same(forecast_scores, forecasts.c, "ticker", "as_of", "h", "model"))
            .join(tickers, tickers.c.ticker == forecast_scores.c.ticker)
            .join(model_versions, current_models())
            .where(
                forecast_scores.c.as_of.in_(last_days(days)),
                forecasts.c.is_champion,
                model_versions.c.is_champion,
                backtest > 0,
            )
            .group_by(forecast_scores.c.ticker, backtest, model_versions.c.trained_to)
            .having(sa.func.max(forecast_scores.c.as_of) >= model_versions.c.trained_to)
            .order_by(forecast_scores.c.ticker)
        )
        with self.engine.connect() as connection:
            return frame(connection.execute(query))


def _unscored() -> sa.ColumnElement[bool]:
    """A drop whose closes forecasts are still to be compared with."""
    return sa.and_(drops.c.status == "accepted", ~drops.c.scored)


def _scores() -> sa.Select[Any]:
    """What the rows of forecast_scores are, of any prices and forecasts.

    A close counts in the shares of the day that the forecast was made on. What the naive forecast
    told is the close of that day as it was then: where it is another one now, by more than a
    correction, there was a split.
    """
    told, naive, actual, now = forecasts, forecasts.alias("naive"), prices, prices.alias("now")
    change = now.c.close / naive.c.close
    close = actual.c.close / sa.case((change.between(1 / SPLIT, SPLIT), 1.0), else_=change)
    return (
        sa.select(
            *(told.c[name] for name in ("ticker", "as_of", "h", "model")),
            actual.c.close.label("actual_close"),
            sa.func.ln(close / told.c.close).label("error"),
            sa.func.ln(close / naive.c.close).label("naive_error"),
            close.between(told.c.lo_80, told.c.hi_80).label("inside_80"),
            close.between(told.c.lo_95, told.c.hi_95).label("inside_95"),
        )
        .select_from(actual)
        .join(told, _outcome())
        .join(naive, same(told, naive.c, "ticker", "as_of", "h") & (naive.c.model == NAIVE))
        .join(now, (now.c.ticker == told.c.ticker) & (now.c.date == told.c.as_of))
    )


def _add_up(connection: sa.Connection, days: Sequence[tuple[Any, ...]]) -> None:
    """Make the daily scores of these pairs of as_of and h anew."""
    figures = (
        sa.func.count(),
        sa.func.sum(sa.func.abs(forecast_scores.c.error)),
        sa.func.sum(sa.func.abs(forecast_scores.c.naive_error)),
        *(
            sa.func.sum(sa.case((inside, 1), else_=0))
            for inside in (forecast_scores.c.inside_80, forecast_scores.c.inside_95)
        ),
    )
    by = (forecast_scores.c.as_of, forecast_scores.c.h)
    each = sa.select(*by, forecast_scores.c.model, *figures).group_by(*by, forecast_scores.c.model)
    shown = (
        sa.select(*by, sa.literal(SHOWN), *figures)
        .join(forecasts, same(forecast_scores, forecasts.c, "ticker", "as_of", "h", "model"))
        .where(forecasts.c.is_champion)
        .group_by(*by)
    )
    for first in range(0, len(days), _DAYS_AT_ONCE):
        some = days[first : first + _DAYS_AT_ONCE]
        connection.execute(
            daily_scores.delete().where(sa.tuple_(daily_scores.c.as_of, daily_scores.c.h).in_(some))
        )
        for told in (each, shown):
            names = [column.name for column in daily_scores.c]
            connection.execute(
                daily_scores.insert().from_select(names, told.where(sa.tuple_(*by).in_(some)))
            )


def _outcome() -> sa.ColumnElement[bool]:
    """A price of the day that a forecast is of."""
    return (prices.c.ticker == forecasts.c.ticker) & (prices.c.date == forecasts.c.target_date)


def _market_models() -> sa.Select[Any]:
    return market_models.select().order_by(market_models.c.id.desc()).limit(1)


def _is_crowned(
    model: sa.Column[str], others: sa.FromClause, same_set: sa.ColumnElement[bool], champion: str
) -> sa.ColumnElement[bool]:
    """Whether a row is the champion's, or the naive one of a set that has none."""
    has_it = sa.exists().where(same_set, others.c.model == champion)
    return sa.or_(model == champion, sa.and_(model == NAIVE, ~has_it))
