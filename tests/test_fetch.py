"""From a provider's answers to forecasts: the command and the asset, on real sockets."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from exchange_calendars import get_calendar

from stock_assets.database import Database
from stock_assets.defs import assets
from stock_assets.files import files_at
from stock_assets.sessions import last_closed
from stock_assets.settings import current_settings
from stock_assets.storage import Store
from tests.conftest import ROOT, as_csv, make_prices
from tests.market_data import CSVS, Answer, Market, chart
from tests.test_cli import Done, stock_assets
from tests.test_database import table

SECTORS = {"AAPL": "Technology", "MSFT": "Technology", "XOM": "Energy"}
DAYS = 100


def sessions() -> pd.DatetimeIndex:
    """The trading days that are over, the newest last."""
    last = pd.Timestamp(last_closed(datetime.now(UTC)))
    calendar = get_calendar("XNYS", start=last - pd.Timedelta(days=300), end=last)
    return pd.DatetimeIndex(calendar.sessions[calendar.sessions <= last])


def history(ticker: str, days: int = DAYS, split: float = 1.0) -> pd.DataFrame:
    """Prices up to the newest trading day, in new shares."""
    prices = make_prices(ticker, days).assign(sector=SECTORS[ticker], date=sessions()[-days:])
    names = ["close", "open", "low", "high"]
    return prices.assign(**(prices[names] / split).round(6))


def told(prices: pd.DataFrame) -> Answer:
    """What Yahoo answers: its closes are adjusted for splits."""
    names = ["open", "high", "low", "close", "close", "volume"]
    rows = list(prices[names].astype(object).itertuples(index=False, name=None))
    return chart(prices["date"].dt.strftime("%Y-%m-%d").tolist(), rows)


@pytest.fixture
def yahoo(market: Market, home: Path) -> Market:  # noqa: ARG001
    """Yahoo, which knows three tickers, and a platform that knows none."""
    for ticker, sector in SECTORS.items():
        market.chart(ticker, told(history(ticker)))
        market.sector(ticker, sector)
    return market


@pytest.fixture
def database(home: Path) -> Iterator[Database]:  # noqa: ARG001
    database = Database(current_settings().prediction_database_url)
    yield database
    database.engine.dispose()


def fetched(*arguments: object) -> Done:
    done = stock_assets("fetch", *arguments)
    assert done.code == 0, done
    return done


def materialized() -> dict[str, object]:
    """What the asset's page tells of the last fetch."""
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("fetched_prices"))
        assert event
        assert event.asset_materialization
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def commands() -> list[list[str]]:
    """The README's, in their order."""
    lines = (ROOT / "README.md").read_text().splitlines()
    typed = [
        shlex.split(line, comments=True) for line in lines if line.startswith("stock-assets fetch")
    ]
    return [words[2:] for words in typed]


def test_the_commands_of_the_readme(yahoo: Market, database: Database) -> None:
    csv = as_csv(history("MSFT").assign(ticker="CSCO"))
    yahoo.answer(CSVS, "/prices.csv", Answer(csv))
    first, again, since, of_a_file = commands()
    assert "200 rows of 2 tickers, nothing new of 0" in fetched(*first).out
    assert "0 rows of 0 tickers, nothing new of 2" in fetched(*again).out
    assert "100 rows of 1 tickers" in fetched(*since).out
    assert f"{CSVS}, to " in fetched(*of_a_file).out
    rows = table(database, "tickers").set_index("ticker")
    assert rows["sector"].to_dict() == SECTORS | {"CSCO": "Technology"}
    assert (rows["forecast_revision"] == rows["price_revision"]).all()
    assert (rows["days"] == DAYS).all()


def test_a_fetch_is_an_asset_and_its_drops_are_like_any_other(
    yahoo: Market,  # noqa: ARG001
    database: Database,
) -> None:
    fetched("AAPL", "--since", "2015-01-02")
    page = materialized()
    drops = table(database, "drops")
    assert page["drops"] == drops["file_name"].tolist()
    assert (page["provider"], page["rows"], page["tickers_with_news"]) == ("yahoo", DAYS, 1)
    assert (drops["status"].tolist(), drops["accepted"].tolist()) == (["accepted"], [DAYS])


def test_a_ticker_without_prices_is_named_and_stops_no_other(
    yahoo: Market,  # noqa: ARG001
    database: Database,
) -> None:
    done = stock_assets("fetch", "AAPL", "GONE")
    assert done.code == 2
    assert "GONE: Yahoo has no prices of GONE" in done.out
    assert table(database, "tickers")["ticker"].tolist() == ["AAPL"]
    assert list(materialized()["failures"]) == ["GONE"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["GONE"], "yahoo: Yahoo has no prices of GONE"),
        (["--provider", "google", "AAPL"], "There is no provider 'google'"),
        (["--provider", "alphavantage", "AAPL"], "needs a key: claim one"),
        ([], "No tickers to fetch: name some, or set STOCK_ASSETS_UNIVERSE"),
    ],
)
def test_where_nothing_comes_it_is_said_why(
    yahoo: Market,  # noqa: ARG001
    arguments: list[str],
    why: str,
) -> None:
    done = stock_assets("fetch", *arguments)
    assert done.code == 3
    assert why in done.err
    assert "Traceback" not in done.out + done.err


def test_a_split_leaves_prices_features_models_and_forecasts_that_agree(
    yahoo: Market, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for back in (3, 2):
        with monkeypatch.context() as patch:
            patch.setattr(assets, "last_closed", lambda _, back=back: sessions()[-back].date())
            fetched("AAPL", "MSFT")
    database.score_forecasts()
    scored = table(database, "forecast_scores")
    assert len(scored) > 0
    models = table(database, "tickers").set_index("ticker")["model_version"]
    yahoo.chart("AAPL", told(history("AAPL", split=4)))
    done = fetched("AAPL", "MSFT")
    assert "AAPL: its history was rewritten, old closes are 0.25 of what they were" in done.out
    assert materialized()["tickers_rewritten"] == {"AAPL": pytest.approx(0.25, rel=1e-4)}
    rows = table(database, "tickers").set_index("ticker")
    assert rows.loc["AAPL", "model_version"] != models["AAPL"]
    prices = database.read_prices(["AAPL"])
    np.testing.assert_allclose(prices["close"], history("AAPL", split=4)["close"])
    (path,) = (frame for _, frame in database.champion_forecasts(["AAPL"]).groupby("ticker"))
    assert path["is_current"].all()
    assert path["last_close"].iloc[0] == prices["close"].iloc[-1]
    assert path["close"].to_numpy() == pytest.approx(prices["close"].iloc[-1], rel=0.1)
    features = Store(files_at(current_settings().store)).read_features(["AAPL"])
    np.testing.assert_allclose(features["close"], prices["close"])
    database.score_forecasts()
    after = table(database, "forecast_scores").merge(scored, on=["ticker", "as_of", "h", "model"])
    assert len(after) == len(scored)
    np.testing.assert_allclose(after["error_x"], after["error_y"], atol=1e-5)
    assert (after["inside_80_x"] == after["inside_80_y"]).all()
