"""`stock-assets serve` as it is run: without Dagster, with large files, beside another."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.browser import Tab, chromium, chromium_path
from tests.commands import (
    STOCK_ASSETS,
    Answer,
    Service,
    environment,
    half_an_upload,
    new_home,
    serving,
    typed,
    wait_until,
)
from tests.conftest import as_csv, make_prices

LARGE = 35_000_000  # bytes
NO_HEADER = (
    "The file has no header: line 1 is 'day;ticker;price'. Expected a header with the columns"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files are before they are uploaded."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def wrong(folder: Path) -> Path:
    """A large file that is no CSV of prices."""
    row = b"2023-01-03;AAPL;125.07\n"
    file = folder / "wrong.csv"
    file.write_bytes(b"day;ticker;price\n" + LARGE // len(row) * row)
    return file


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose Dagster is down."""
    with serving(new_home(tmp_path_factory.mktemp("alone"))) as service:
        yield service


@pytest.fixture(scope="module")
def tab(alone: Service) -> Iterator[Tab]:
    """Its page; no script has failed in the end, and only what was to be refused was."""
    path = chromium_path()
    if path is None:
        pytest.skip("There is no Chromium.")
    with chromium(path) as browser:
        tab = browser.tab()
        tab.watch()
        tab.open(alone.url)
        tab.wait("document.querySelector('main[aria-busy=false]')")
        yield tab
        tab.evaluate("1")  # whatever was said until now is heard
        assert tab.errors == []
        assert set(tab.failed) <= {f"422 {alone.url}/upload"}


def upload(file: Path, service: Service, *, key: str = "") -> Answer:
    """What curl is told."""
    header = f'-H "Authorization: Bearer {key}"' if key else ""
    return typed(
        f'curl -X POST {header} -F "file=@{file.name}" URL/upload', service.url, file.parent
    )


def test_a_large_wrong_file_is_refused_before_all_of_it_was_sent(
    alone: Service, wrong: Path
) -> None:
    refused = upload(wrong, alone)
    assert refused.status == 422
    assert refused.content["detail"].startswith(NO_HEADER)
    assert refused.sent < LARGE / 2
    assert not list((alone.home / "drops").glob("*wrong*"))


def test_the_page_tells_why_a_large_file_is_refused(tab: Tab, wrong: Path) -> None:
    tab.choose("#files", wrong)
    tab.wait("document.querySelector('.fate.failed')", seconds=30)
    words = tab.evaluate("document.querySelector('.fate.failed .words p').textContent")
    assert words.startswith(NO_HEADER)


def test_a_large_file_takes_little_memory(alone: Service, folder: Path) -> None:
    header, _, rows = as_csv(make_prices("NAME", days=1250)).partition(b"\n")
    tickers = [b"T%03d" % number for number in range(LARGE // len(rows) + 1)]
    file = folder / "large.csv"
    file.write_bytes(header + b"\n" + b"".join(rows.replace(b"NAME", name) for name in tickers))
    service = psutil.Process(alone.process.pid)
    before = most = service.memory_info().rss
    words = ["curl", "-sS", "-F", f"file=@{file}", "--fail-with-body", f"{alone.url}/upload"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as sending:
        while sending.poll() is None:
            most = max(most, service.memory_info().rss)
    assert sending.returncode == 0
    (kept,) = (alone.home / "drops").glob("large-*.csv")
    assert kept.stat().st_size == file.stat().st_size >= LARGE
    assert most - before < 30_000_000


def test_uploads_go_on_while_dagster_is_down(alone: Service, folder: Path) -> None:
    file = folder / "ibm.csv"
    file.write_bytes(as_csv(make_prices("IBM")))
    taken = upload(file, alone)
    assert taken.status == 202
    drop = taken.content["drop"]
    assert (alone.home / "drops" / f"{drop}.csv").read_bytes() == file.read_bytes()
    told = alone.get(f"/drops/{drop}").content
    assert told["status"] == "queued"
    assert told["detail"].startswith("It is kept, and taken when Dagster is up. Dagster at http://")
    ready = alone.get("/readyz")
    assert ready.status == 503
    assert ready.content["database"] == "ok"
    assert "does not answer" in ready.content["dagster"]


def test_the_page_tells_that_dagster_is_down(tab: Tab, folder: Path) -> None:
    file = folder / "xom.csv"
    file.write_bytes(as_csv(make_prices("XOM")))
    tab.choose("#files", file)
    tab.wait(
        "[...document.querySelectorAll('.fate')].some(fate => fate.innerText.includes('xom.csv')"
        " && fate.innerText.includes('It is kept, and taken when Dagster is up.'))"
    )


def test_two_installations_know_nothing_of_each_other(tmp_path: Path) -> None:
    names = ("ours", "theirs")
    homes = [new_home(tmp_path / name) for name in names]
    keys, entries = zip(*[new_key(name) for name in names], strict=True)
    file = tmp_path / "prices.csv"
    file.write_bytes(as_csv(make_prices("IBM", days=60)))  # too few to train on, which is quick
    with (
        serving(homes[0], API_KEYS=entries[0]) as ours,
        serving(homes[1], API_KEYS=entries[1]) as theirs,
    ):
        both = (ours, theirs)
        statuses = [[one.get("/tickers", key).status for key in ("", *keys)] for one in both]
        assert statuses == [[401, 200, 401], [401, 401, 200]]
        assert upload(file, theirs, key=keys[0]).status == 401

        taken = upload(file, ours, key=keys[0])
        assert taken.status == 202
        path = f"/drops/{taken.content['drop']}"
        assert [one.get(path, key).status for one, key in zip(both, keys, strict=True)] == [
            200,
            404,
        ]
        assert [[*home.glob("drops/*.csv")] != [] for home in homes] == [True, False]

        subprocess.run(
            [STOCK_ASSETS, "ingest", file],
            env=environment(homes[0]),
            check=True,
            capture_output=True,
        )
        for path in ("/predict/IBM", "/tickers/IBM"):
            told = [one.get(path, key).status for one, key in zip(both, keys, strict=True)]
            assert told == [200, 404]
        assert theirs.get("/tickers", keys[1]).content["total"] == 0
        assert upload(file, ours, key=keys[0]).content["is_new"] is False
        assert upload(file, theirs, key=keys[1]).content["is_new"] is True


def test_nobody_is_let_in_from_elsewhere_without_keys(tmp_path: Path) -> None:
    refused = subprocess.run(
        [STOCK_ASSETS, "serve", "--host", "0.0.0.0"],  # noqa: S104
        env=environment(new_home(tmp_path / "home")),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: On 0.0.0.0 other machines can reach the service, and")


def new_key(name: str) -> list[str]:
    """A secret and its entry, as the command prints them."""
    scopes = ("--scope", "read", "--scope", "upload")
    made = subprocess.run(
        [STOCK_ASSETS, "key", name, *scopes], check=True, capture_output=True, text=True
    )
    return made.stdout.split()


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]],  # Ctrl-C is sent by a terminal, and by `up`
)
def test_a_signal_ends_it_with_0_once_running_requests_are_answered(
    tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    file = tmp_path / "ibm.csv"
    file.write_bytes(as_csv(make_prices("IBM")))
    with (
        serving(new_home(tmp_path / "home")) as service,
        half_an_upload(service, file) as finish,
    ):
        for number in numbers:
            service.process.send_signal(number)
            wait_until("end of listening", lambda: not service.is_alive(), seconds=10)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(0.5)
        assert finish() == b"HTTP/1.1 202"
        assert service.process.wait(20) == 0
        (kept,) = (service.home / "drops").iterdir()
        assert kept.read_bytes() == file.read_bytes()
