"""Secrets: planted in a whole platform at work, and looked for in all that it says and leaves."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
import sqlalchemy as sa

from stock_assets.engine import address, shown
from stock_assets.errors import SetupError
from stock_assets.keys import Scope, new_key
from tests.commands import (
    STOCK_ASSETS,
    Service,
    Up,
    cut_power,
    environment,
    new_home,
    serving,
    wait_until,
)
from tests.conftest import as_csv, empty_database, make_prices

SECRET, KEY = new_key("ops", list(Scope))
CANARIES = {
    name: f"canary{uuid4().hex}"
    for name in ("database", "ALPHAVANTAGE_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
} | {"key": SECRET}
CONTROL = f"control{uuid4().hex[:20]}"  # the name of a file, which may be told
ASKED = (
    *("/", "/page/page.js", "/page/page.css", "/healthz", "/readyz", "/metrics", "/openapi.json"),
    *("/tickers", "/tickers/IBM", "/predict/IBM", "/predict/NONE", "/runs/none", "/nothing"),
)


class Commands(threading.Thread):
    """Notes what commands this machine runs, as `ps` shows them to everybody."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.is_over = threading.Event()

    def run(self) -> None:
        """Look every now and then."""
        while not self.is_over.wait(0.5):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    self.seen.add("\0".join(process.cmdline()))


@contextmanager
def outage(url: str) -> Iterator[None]:
    """Nobody is connected to the database, nor let in."""
    server = sa.create_engine(
        sa.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    name = sa.make_url(url).database
    with server.connect() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )
        yield
        connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    server.dispose()


def of_service(service: Service, when: str) -> dict[str, str]:
    """What the service says, with the key and without."""
    told = {}
    for secret in (SECRET, "wrong", ""):
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        for path in ASKED:
            answer = httpx.get(service.url + path, headers=headers, timeout=60)
            kind = "ours" if secret == SECRET else secret
            told[f"{path} {kind} {when}"] = f"{answer.headers} {answer.text}"
    return told


def of_dagster(up: Up) -> dict[str, str]:
    """What Dagster's UI can be told of the instance, the code and every run."""
    ids = [run["id"] for run in up.web.runs()]
    questions = {
        "instance": "{ instance { info hasInfo runLauncher { name } daemonHealth { id } } }",
        "code": """{ workspaceOrError { __typename ... on Workspace { locationEntries {
            name displayMetadata { key value } } } } }""",
        "assets": """{ assetNodes { assetKey { path } description metadataEntries { label }
            assetMaterializations(limit: 20) { tags { key value }
            metadataEntries { label description
            ... on TextMetadataEntry { text } ... on PathMetadataEntry { path }
            ... on MarkdownMetadataEntry { mdStr } ... on JsonMetadataEntry { jsonString }
            ... on UrlMetadataEntry { url } } } } }""",
    }
    told = {name: str(up.web.query(question)) for name, question in questions.items()}
    for run in ids:
        told[f"run {run}"] = str(
            up.web.query(
                """query ($id: ID!) {
                runOrError(runId: $id) { ... on Run { runConfigYaml tags { key value } } }
                logsForRun(runId: $id) { ... on EventConnection { events { __typename
                    ... on MessageEvent { message } } } } }""",
                id=run,
            )
        )
    told["page"] = httpx.get(f"http://127.0.0.1:{up.web.port}/").text
    return told


def of_database(url: str) -> dict[str, str]:
    """Every row of every table, ours and Dagster's."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        rows = {
            name: connection.execute(sa.text(f"SELECT t::text FROM {name} t")).scalars().all()  # noqa: S608
            for name in names
        }
    engine.dispose()
    return {f"table {name}": "\n".join(found) for name, found in rows.items()}


def of_files(home: Path) -> dict[str, str]:
    """Every file of the home, the log of the session among them."""
    files = [file for file in home.rglob("*") if file.is_file()]
    return {f"file {file.relative_to(home)}": file.read_bytes().decode("latin-1") for file in files}


def upload(up: Up, name: str, content: bytes) -> httpx.Response:
    return httpx.post(
        f"{up.url}/upload",
        files={"file": (name, content)},
        headers={"Authorization": f"Bearer {SECRET}"},
        timeout=60,
    )


def work(up: Up) -> None:
    """Take a good file, a refused one and a training, and wait for what becomes of them."""
    good = upload(up, f"{CONTROL}.csv", as_csv(make_prices("IBM", days=60))).json()["drop"]
    header = b"ticker,sector,date,close,open,low,high,volume\n"
    bad = upload(up, "bad.csv", header + b"\xff" * 300_000).json()

    def is_done() -> bool:
        told = up.get(f"/drops/{good}", SECRET).content
        return bool(told["status"] == "accepted" and not told["waiting"])

    wait_until("forecasts", is_done, seconds=200)
    if "drop" in bad:
        wait_until(
            "refusal",
            lambda: up.get(f"/drops/{bad['drop']}", SECRET).content["status"] == "failed",
            seconds=100,
        )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> dict[str, str]:
    """All that a platform said and left that has worked, and whose database was down."""
    server = sa.make_url(empty_database(postgres_url, "secrets"))
    url = server.set(password=CANARIES["database"]).render_as_string(hide_password=False)
    up, commands = Up(new_home(tmp_path_factory.mktemp("home"))), Commands()
    with pytest.MonkeyPatch.context() as patch:
        for name in CANARIES.keys() - {"database", "key"}:
            patch.setenv(name, CANARIES[name])
        commands.start()
        try:
            up.start(DATABASE_URL=url, API_KEYS=str(KEY))
            wait_until("Dagster", up.web.is_up, seconds=100)
            work(up)
            found = {**of_service(up, "at work"), **of_dagster(up)}
            settings = {"DATABASE_URL": url, "API_KEYS": str(KEY), "LOG_LEVEL": "debug"}
            with serving(new_home(up.home / "alone"), **settings) as alone:
                found |= of_service(alone, "alone")
                with outage(url):
                    found |= of_service(up, "without a database")
                    found |= of_service(alone, "alone without a database")
                    with suppress(Exception):
                        up.web.runs()
            found |= of_database(url)
        finally:
            cut_power(up.process)
            commands.is_over.set()
            commands.join()
    found |= of_files(up.home)
    found["commands"] = "\n".join(commands.seen)
    return found


@pytest.mark.timeout(400)
def test_what_may_be_told_is_found_everywhere(told: dict[str, str]) -> None:
    places = {name.partition(" ")[0] for name, text in told.items() if CONTROL in text}
    assert places >= {"run", "table", "assets"}
    assert "stock_assets" in told["commands"]
    assert "dagster" in told["commands"]
    assert "does not answer" in told["/readyz ours without a database"]
    assert "database does not answer" in told["file output.log"]
    assert "/predict/IBM" in told["file alone/output.log"]


@pytest.mark.parametrize("name", CANARIES)
def test_no_secret_is_told_or_left_anywhere(told: dict[str, str], name: str) -> None:
    assert [place for place, text in told.items() if CANARIES[name] in text] == []


def test_health_is_told_in_our_words_alone(told: dict[str, str]) -> None:
    for place in ("/readyz  without a database", "/readyz wrong without a database"):
        _, _, answer = told[place].partition(") ")
        assert "The database does not answer" in answer
        for word in ("psycopg", "postgres", "sqlalchemy", "FATAL", "socket", "/tmp"):  # noqa: S108
            assert word.lower() not in answer.lower()


# Addresses of databases


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:a@b:{}@host/name",
        "postgresql://user:{}@host:port/name",
        "nothing://user:{}@host/name",
        "postgresql+nothing://user:{}@host/name",
        "postgresql:/user:{}@host",
        "{}",
    ],
)
def test_an_address_that_is_none_is_not_shown(tmp_path: Path, url: str) -> None:
    wrong = url.format(CANARIES["database"])
    with pytest.raises(SetupError) as refused:
        address(wrong)
    assert CANARIES["database"] not in str(refused.value)
    done = subprocess.run(
        [STOCK_ASSETS, "db", "upgrade"],
        env=environment(new_home(tmp_path / "home"), DATABASE_URL=wrong),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "is no address of a database" in done.stderr
    assert CANARIES["database"] not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    ["postgresql://user:{}@host/name", "postgresql://host/name?user=user&password={}"],
)
def test_an_address_is_shown_without_its_password(url: str) -> None:
    told = shown(address(url.format(CANARIES["database"])))
    assert "host/name" in told
    assert CANARIES["database"] not in told
