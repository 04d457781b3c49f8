"""What goes wrong around the platform ends in the right rows, or in words and later success.

Disks are full or may not be written to, Postgres is cut off and restarted, an object store fails
now and then, clocks are set, processes are killed with an upload half done, and others are at the
same work.
"""

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from stock_assets.database import Database
from stock_assets.drops import look
from stock_assets.files import Folder
from tests.breaking import (
    HOUR,
    STAGES,
    UNCLEAR,
    Life,
    Undisturbed,
    Workshop,
    by_hand,
    by_itself,
    cut_connections,
    cut_off,
    fill_the_disk,
)
from tests.commands import (
    STOCK_ASSETS,
    Service,
    cut_power,
    half_an_upload,
    new_home,
    serving,
    wait_until,
)
from tests.conftest import SOAK, as_csv, empty_database, make_prices, names, s3_environment
from tests.test_automation import Sensors, sensors

NO_ROOM = ("No space left on device", "database or disk is full", "disk I/O error")  # of SQLite
CUT_OFF = ("server closed the connection", "terminating connection", "connection to server")
__all__ = ["sensors"]  # a fixture


@dataclass
class Trial:
    """Attempts at the work of each stage that come to harm, and the one after them."""

    shop: Workshop
    undisturbed: Undisturbed
    life: Life
    stage: int = 0

    def fail(self, words: tuple[str, ...], **harm: Any) -> bool:
        """An attempt that may fail, and then with one of these words; whether it did."""
        ended = self.shop.attempt(self.life, self.stage, **harm)
        assert not ended.killed
        assert UNCLEAR not in ended.error
        assert not ended.error or any(word in ended.error for word in words), ended.error
        return bool(ended.error)

    def go_on(self, **how: Any) -> None:
        """Begin the stage again with nothing in the way: it comes to the same as ever."""
        for ended in self.shop.attempts(self.life, self.stage, **how):
            assert (ended.killed, ended.error) == (False, "")
        self.undisturbed.demand_same(self.life, self.stage, f"stage {self.stage}")
        self.stage += 1


Begin = Callable[..., Trial]


@pytest.fixture
def begin(shop: Workshop, undisturbed: Undisturbed, tmp_path: Path) -> Begin:
    """Begins a trial; the arguments are those of a life."""

    def begun(url: str = "", home: Path = tmp_path / "home", **more: str) -> Trial:
        return Trial(shop, undisturbed, Life.begin(home, url, by_hand, **more))

    return begun


# Disks


def test_who_finds_no_room_for_a_file_says_so_and_leaves_nothing(begin: Begin) -> None:
    trial = begin()
    for places in ((1, 3, 8, 11), (2, 4), (3, 6)):
        for place in places:
            assert trial.fail(NO_ROOM, kind="half a file", number=place, harm=fill_the_disk)
            assert trial.life.leftovers() == []
        trial.go_on()


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
    """A small disk at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_with_all_on_it_is_told_and_later_all_is_there(
    begin: Begin, tmp_path: Path
) -> None:
    """Databases too."""
    ballast = tmp_path / "disk" / "ballast"
    failed = []
    with mounted(tmp_path / "disk", megabytes=64):
        trial = begin(home=tmp_path / "disk" / "home")
        for kilobytes in ((0, 250, 1_000, 1_700, 2_100), (0, 200), (300,)):
            trial.life.drop(trial.stage)
            for free in kilobytes:
                left = os.statvfs(ballast.parent)
                with ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_bsize - free * 1000)
                failed.append(trial.fail(NO_ROOM))
                ballast.unlink()
            trial.go_on()
    assert sum(failed) >= 5, failed


def test_a_store_that_may_not_be_written_to_is_told_and_later_all_is_there(
    begin: Begin, tmp_path: Path
) -> None:
    with mounted(tmp_path / "home" / "store", megabytes=16):
        trial = begin()
        for _ in STAGES:
            remount = ["mount", "-o", "remount,{}", trial.life.home / "store"]
            for how, fails in (("ro", True), ("rw", False)):
                subprocess.run([str(word).format(how) for word in remount], check=True)
                assert not fails or trial.fail(("Read-only file system",))
            trial.go_on()


# Postgres


def test_who_is_cut_off_from_postgres_says_so_and_later_all_is_there(
    begin: Begin, postgres_url: str
) -> None:
    trial = begin(empty_database(postgres_url, "cut_off"))
    of_ours = [("our statement", number) for number in (1, 40, 100)]
    moments = (
        [*of_ours, ("our commit", 3), ("our commit's end", 9), ("Dagster's statement", 60)],
        [("our statement", 12), ("our commit", 4), ("our commit's end", 4)],
        [("our statement", 30), ("Dagster's statement", 30)],
    )
    failed = []
    for some in moments:
        for kind, number in some:
            failed.append(trial.fail(CUT_OFF, kind=kind, number=number, harm=cut_connections))
        trial.go_on()
    assert sum(failed) >= 6, failed  # where no transaction is open, nobody need notice


@pytest.mark.parametrize(
    "is_for_long", [False, pytest.param(True, marks=SOAK)], ids=["a moment", "long"]
)
def test_who_is_at_work_when_postgres_is_down_says_so_or_goes_on_and_later_all_is_there(
    begin: Begin, postgres_server: Any, *, is_for_long: bool
) -> None:
    url = empty_database(postgres_server.get_uri(), "down")
    trial = begin(url)
    with ThreadPoolExecutor(1) as threads:
        at_work = threads.submit(trial.fail, CUT_OFF)
        wait_until("model", partial(has_rows, url, "market_models"), seconds=60)
        assert not at_work.done()
        postgres_server.stop()
        try:
            assert not is_for_long or at_work.result()  # Dagster tries for half a minute
        finally:
            postgres_server.start()
    at_work.result()
    trial.go_on()


def has_rows(url: str, table: str) -> bool:
    """Whether there is such a table with something in it."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            query = sa.select(sa.literal(1)).select_from(sa.text(table))
            return connection.execute(query).first() is not None
    except sa.exc.ProgrammingError:
        return False
    finally:
        engine.dispose()


def test_the_service_says_that_postgres_is_down_and_needs_no_restart(
    tmp_path: Path, postgres_server: Any
) -> None:
    url = empty_database(postgres_server.get_uri(), "served")
    home = new_home(tmp_path / "home")
    with serving(home, DATABASE_URL=url) as service:
        assert service.get("/tickers").status == 200
        cut_off(url)
        assert service.get("/tickers").status == 200
        assert send(service, "first.csv", CSVS[0]).status_code == 202
        postgres_server.stop()
        try:
            for told in (httpx.get(f"{service.url}/tickers"), send(service, "b.csv", CSVS[1])):
                assert told.status_code == 503
                assert told.json()["detail"].startswith("The database ")
            assert service.get("/readyz").content["database"] != "ok"
        finally:
            postgres_server.start()
        assert service.get("/tickers").status == 200
        assert send(service, "second.csv", CSVS[1]).status_code == 202
        seen = look(Folder(home / "drops"))
        assert {name.partition("-")[0] for name in seen} == {"first", "second"}


# Uploads

CSVS = [as_csv(make_prices(f"T{number}", days=5_000)) for number in range(6)]


def send(service: Service, name: str, content: bytes) -> httpx.Response:
    """Upload a file."""
    return httpx.post(f"{service.url}/upload", files={"file": (name, content)}, timeout=60)


@pytest.mark.timeout(300)
def test_a_service_that_is_killed_leaves_whole_uploads_and_all_that_it_has_taken(
    tmp_path: Path,
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    folder = tmp_path / "home" / "drops"
    taken: set[bytes] = set()
    with serving(new_home(tmp_path / "home")) as service:
        command = (STOCK_ASSETS, "serve", "--port", service.port)

        def try_to_send(number: int) -> None:
            with suppress(httpx.TransportError):
                if send(service, f"{number}.csv", CSVS[number]).status_code == 202:
                    taken.add(CSVS[number])

        half = tmp_path / "half.csv"
        half.write_bytes(CSVS[0])
        for _ in range(3):
            with (
                ThreadPoolExecutor(len(CSVS)) as threads,
                half_an_upload(service, half),  # one at least is under way
            ):
                threads.map(try_to_send, range(len(CSVS)))
                threading.Event().wait(chance.random() * 0.3)  # somewhere in the middle
                cut_power(service.process)
            kept = [(folder / name).read_bytes() for name in look(Folder(folder))]
            assert taken <= set(kept) <= set(CSVS), f"seed {seed}"
            assert len(kept) == len(set(kept)), f"seed {seed}"
            service.begin(*command, DAGSTER_URL="http://127.0.0.1:9")
        for number in range(len(CSVS)):
            assert send(service, f"{number}.csv", CSVS[number]).status_code == 202
        kept = [(folder / name).read_bytes() for name in look(Folder(folder))]
        assert sorted(kept) == sorted(CSVS)


# Object stores

OF_A_HOP = {"connection", "content-length", "expect", "host", "transfer-encoding"}
BROKEN = httpx.Response(500, content=b"<Error><Code>InternalError</Code></Error>")


@dataclass
class Gateway:
    """A slow way to a server that speaks HTTP, on which some requests are answered with 500.

    Attributes:
        server: Its address.
        fails: Which, by their number; every second of them is done all the same.
        number: How many requests there were.
    """

    server: str
    fails: Callable[[int], bool] = lambda number: number % 6 == 0
    number: int = 0

    def __post_init__(self) -> None:
        self._lock, self._failed = threading.Lock(), 0

    def ask(self, request: BaseHTTPRequestHandler) -> httpx.Response:
        """What is answered to a request."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._lock:
            self.number += 1
            is_failing = self.fails(self.number)
            self._failed += is_failing
            is_lost = is_failing and self._failed % 2
        threading.Event().wait(0.01)
        if is_lost:
            return BROKEN
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in OF_A_HOP]
        url = self.server + request.path
        told = httpx.request(request.command, url, headers=headers, content=body)
        return BROKEN if is_failing else told


class Asked(BaseHTTPRequestHandler):
    """A request that comes by a gateway."""

    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def do_GET(self) -> None:
        """Hand it on, and its answer back."""
        told = self.gateway.ask(self)
        self.send_response(told.status_code)
        for name, text in told.headers.items():
            if name.lower() not in OF_A_HOP:
                self.send_header(name, text)
        self.send_header("Content-Length", told.headers["Content-Length"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(told.content)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  as the server calls them

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def gateway_to(server: str) -> Iterator[tuple[Gateway, str]]:
    """A gateway, and its address."""
    gateway = Gateway(server)
    handler = type("OfThis", (Asked,), {"gateway": gateway})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as way:
        thread = threading.Thread(target=way.serve_forever)
        thread.start()
        yield gateway, f"http://127.0.0.1:{way.server_port}"
        way.shutdown()
        thread.join()


def test_a_bucket_that_fails_is_told_and_one_that_fails_now_and_then_is_asked_again(
    begin: Begin, s3: str, bucket: str, tmp_path: Path
) -> None:
    places = {
        "STOCK_ASSETS_FILES": f"{bucket}/prefix",
        "STOCK_ASSETS_DROPS": str(tmp_path / "home" / "drops"),
    }
    with gateway_to(s3) as (gateway, url):
        trial = begin(**places, **s3_environment(url), AWS_MAX_ATTEMPTS="3")
        gateway.fails = lambda _: True
        assert trial.fail(("does not answer as it should",))
        gateway.fails = lambda number: number % 10 == 0
        before = gateway.number
        trial.go_on()
        assert gateway.number > before + 30


# Clocks


def test_a_clock_that_is_set_between_two_runs_changes_nothing(begin: Begin) -> None:
    trial = begin()
    for hours in (0, -30, 30):
        trial.go_on(clock=hours * HOUR)


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_sensor_whose_clock_is_set_takes_what_is_dropped_again(
    sensors: Sensors, hours: int
) -> None:
    path = sensors.drop(b"one")
    assert [sensors.look(), len(sensors.look())] == [[], 1]
    then = path.stat().st_mtime + hours * HOUR
    for content in (b"two", b"two"):  # another file; then the same again, as nobody has taken it
        sensors.drop(content)
        then += 1
        os.utime(path, (then, then))
        assert [sensors.look(), len(sensors.look())] == [[], 1]
    assert len(sensors.run_keys) == 3


def test_sensors_whose_clock_was_set_back_look_again_after_a_restart(
    shop: Workshop, tmp_path: Path
) -> None:
    life = Life.begin(tmp_path / "home", way=by_itself)
    assert shop.attempt(life, 0, "rename", 1, clock=30 * HOUR).killed  # at the drop
    assert shop.attempt(life, 0, "rename", 2).killed  # at its features


# Others at the same work


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_who_do_the_same_at_once_leave_what_one_leaves(
    begin: Begin, request: pytest.FixtureRequest, kind: str
) -> None:
    url = ""
    if kind == "postgresql":
        url = empty_database(request.getfixturevalue("postgres_url"), "of_two")
    trial = begin(url)
    for _ in STAGES[:2]:
        trial.go_on(times=2)


def test_many_who_begin_at_once_where_there_is_nothing_do_not_meet(
    shop: Workshop, tmp_path: Path
) -> None:
    for home in ("one", "two"):
        life = Life.begin(tmp_path / home)
        ended = shop.attempts(life, 0, "our commit's end", 3, times=4)  # with Dagster's files made
        assert [(one.killed, one.error) for one in ended] == [(True, "")] * 4


def test_two_sensors_that_look_at_once_register_each_file_once(sensors: Sensors) -> None:
    contents = [b"%d" % (number // 2) for number in range(40)]  # each under two names
    for number, content in enumerate(contents):
        sensors.drop(content, f"{number}.csv")
    both = [replace(sensors, database=Database(sensors.settings.prediction_database_url))]
    both.append(sensors)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(Sensors.look, both))
        asked = list(threads.map(Sensors.look, both))
    both[0].database.engine.dispose()
    keys = {key for some in asked for key in some}
    assert {sensors.store.read_drop(key, 100) for key in keys} == set(contents)
    assert len(keys) == len(sensors.names()) == 20
    assert names(sensors.store.files) == sorted(f"drops/{key}" for key in keys)
