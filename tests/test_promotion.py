"""Promotion: what the database knows decides who is crowned, unless a person did."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from stock_assets import forecast_records, models
from stock_assets.champion import MIN_LIVE_DAYS
from stock_assets.database import Champion, Database
from stock_assets.promotion import decide_champion, is_settled
from tests.conftest import make_prices
from tests.test_database import contents, forecast, take, training

OWN = "linear_regression"
TICKERS = ("AAPL", "IBM")
LAST = date(2019, 6, 28)
CLEAR = {str(1280 + n): [gain, 10] for n, gain in enumerate([1.0, 1.2, 0.9, 1.1, 1.0, 0.8])}
NOISE = {str(1280 + n): [gain, 10] for n, gain in enumerate([1.0, -1.2, 0.9, -1.1, 1.0, -0.8])}


def train(database: Database, gains: dict[str, list[float]], version: str = "v1") -> None:
    """A training of all tickers in which the challenger gained this on naive."""
    rows = [row for ticker in TICKERS for row in training(ticker, version)]
    told = [row | {"gains": gains if row["model"] == OWN else None} for row in rows]
    database.save_training(told, dict.fromkeys(TICKERS, 1))


def live(database: Database, error: float, days: int) -> None:
    """Scored forecasts of so many days, where naive was off by 1 % and the challenger by this."""
    flat = dict.fromkeys(("close", "open", "low", "high"), 100.0)
    take(database, *(make_prices(ticker).assign(**flat) for ticker in TICKERS))
    for day in pd.bdate_range(end="2019-06-24", periods=days):
        rows = pd.concat([forecast(ticker, as_of=day.date()) for ticker in TICKERS])
        errors = rows["model"].map({OWN: error, "naive": 0.01})
        rows["close"] = 100 * np.exp(errors)
        database.save_forecasts(rows, dict.fromkeys(TICKERS, 2))
    database.score_forecasts()


@pytest.fixture
def known(database: Database) -> Database:
    """Two tickers with forecasts as naive was the champion."""
    take(database, *(make_prices(ticker) for ticker in TICKERS))
    train(database, NOISE)
    rows = pd.concat([forecast(ticker) for ticker in TICKERS])
    database.save_forecasts(rows, dict.fromkeys(TICKERS, 1))
    return database


def shown(database: Database) -> set[str]:
    return set(database.champion_forecasts(TICKERS)["model"])


def test_naive_is_crowned_where_nothing_is_known(database: Database) -> None:
    decision, now = decide_champion(database)
    assert now == database.champion() == Champion("naive", decision.reason, pinned=False)


def test_challenger_without_clear_gains_is_not_crowned(known: Database) -> None:
    decision, now = decide_champion(known)
    assert (decision.champion, now.model, shown(known)) == ("naive", "naive", {"naive"})


def test_challenger_with_clear_gains_is_crowned(known: Database) -> None:
    train(known, CLEAR)
    decision, now = decide_champion(known)
    assert now == known.champion() == Champion(OWN, decision.reason, pinned=False)
    assert decision.p_values[OWN] < 0.05
    assert decision.gains[OWN] == pytest.approx(0.1)
    assert shown(known) == {OWN}


def test_gains_of_an_earlier_training_do_not_count(known: Database) -> None:
    train(known, CLEAR)
    decide_champion(known)
    train(known, NOISE, "v2")
    assert decide_champion(known)[1].model == "naive"
    assert shown(known) == {"naive"}
    assert known.champions()["model"].tolist() == ["naive", OWN]


@pytest.mark.parametrize(("pinned", "gains"), [("naive", CLEAR), (OWN, NOISE)])
def test_pinned_champion_stays_and_the_rule_is_told(
    known: Database, pinned: str, gains: dict[str, list[float]]
) -> None:
    train(known, gains)
    by_hand = Champion(pinned, "chosen by hand", pinned=True)
    known.crown(by_hand)
    decision, now = decide_champion(known)
    assert now == known.champion() == by_hand
    assert decision.champion != pinned
    assert shown(known) == {pinned}


@pytest.mark.parametrize(("gains", "champion"), [(CLEAR, OWN), (NOISE, "naive")])
def test_released_champion_is_the_one_that_the_rule_names(
    known: Database, gains: dict[str, list[float]], champion: str
) -> None:
    train(known, gains)
    known.crown(Champion(OWN, "chosen by hand", pinned=True))
    decision, now = decide_champion(known, release=True)
    assert now == known.champion() == Champion(champion, decision.reason, pinned=False)
    assert shown(known) == {champion}
    assert len(known.champions()) == 2


def test_pinned_champion_is_crowned_on_new_forecasts_too(known: Database) -> None:
    known.crown(Champion(OWN, "chosen by hand", pinned=True))
    known.save_forecasts(forecast(champion="naive"), {"AAPL": 1})
    decide_champion(known)
    assert shown(known) == {OWN}


@pytest.mark.parametrize(
    ("error", "days", "champion"),
    [
        (0.02, MIN_LIVE_DAYS, "naive"),
        (0.02, MIN_LIVE_DAYS - 1, OWN),
        (0.005, MIN_LIVE_DAYS, OWN),
    ],
    ids=["behind naive", "behind naive on too few days", "ahead of naive"],
)
def test_champion_steps_down_where_it_is_behind_naive_in_production(
    known: Database, error: float, days: int, champion: str
) -> None:
    train(known, CLEAR)
    decide_champion(known)
    live(known, error, days)
    decision, now = decide_champion(known)
    assert (decision.champion, now.model) == (champion, champion)


def test_deciding_again_changes_nothing(known: Database) -> None:
    train(known, CLEAR)
    decide_champion(known)
    before = contents(known)
    decide_champion(known)
    assert contents(known) == before


# Whether a killed process has left something to do


def test_nothing_is_to_be_done_where_there_are_no_prices(database: Database) -> None:
    assert is_settled(database)


def test_what_follows_forecasts_is_done_once_drops_are_scored_and_the_champion_is_named(
    known: Database,
) -> None:
    told = [is_settled(known)]
    known.score_forecasts()
    told.append(is_settled(known))
    decide_champion(known)
    told.append(is_settled(known))
    take(known, make_prices("AAPL", 130))
    told.append(is_settled(known))
    assert told == [False, False, True, False]


def test_another_training_leaves_the_champion_to_be_named(known: Database) -> None:
    known.score_forecasts()
    decide_champion(known)
    train(known, CLEAR)
    assert not is_settled(known)
    known.crown(Champion(OWN, "chosen by hand", pinned=True))
    assert is_settled(known)


def test_the_database_and_the_models_mean_the_same_by_naive() -> None:
    assert forecast_records.NAIVE == models.NAIVE
