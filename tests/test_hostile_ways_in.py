"""Hostile files, names and requests by every way in; what comes back of them is text, no more."""

import csv
import gzip
import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from stock_assets import forecasting
from stock_assets.api.app import create_app
from stock_assets.api.connections import MOST_HEAD_BYTES
from stock_assets.csv_text import LOOK, look
from stock_assets.database import Database
from stock_assets.defs import checks
from stock_assets.defs.display import forecast_metadata
from stock_assets.drops import look as look_at
from stock_assets.drops import register
from stock_assets.errors import DropError
from stock_assets.features import price_features
from stock_assets.files import Folder
from stock_assets.forecasting import Panel
from stock_assets.installation import Ingested
from stock_assets.intervals import interval_widths
from stock_assets.models import candidates
from stock_assets.names import drop_key
from stock_assets.prices import validate_csv
from stock_assets.report import write_report
from stock_assets.settings import Settings
from stock_assets.storage import Store
from tests.asgi import Answer, ask
from tests.browser import Tab, chromium, chromium_path, patiently
from tests.commands import Service, new_home, serving, wait_until
from tests.conftest import as_csv, make_prices, names
from tests.hostile import (
    FILE_NAMES,
    FORMULAS,
    HEADER,
    HTML,
    SECTORS,
    TODAY,
    TOKENS,
    mutated,
    mutated_bytes,
    read,
)
from tests.test_report import forecasts as some_forecasts

BOUNDARY = b"cut-4f3a9c"
FORM = "multipart/form-data; boundary=cut-4f3a9c"
END = b"--%b--\r\n" % BOUNDARY
SOUND = as_csv(make_prices(days=3))


def part(content: bytes, name: bytes = b"prices.csv") -> bytes:
    escaped = name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    head = b'Content-Disposition: form-data; name="file"; filename="%b"' % escaped
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, content)


def blocks_of(random: Random, body: bytes) -> list[bytes]:
    """The body in a few blocks, cut anywhere."""
    edges = sorted(random.choices(range(len(body) + 1), k=random.choice((0, 0, 1, 4))))
    return [body[start:end] for start, end in zip([0, *edges], [*edges, len(body)], strict=True)]


# Uploads


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"dagster_url": "http://127.0.0.1:9"}))


@pytest.fixture
def drops(settings: Settings) -> Path:
    """The drop folder."""
    return settings.home / "drops"


def upload(app: FastAPI, *blocks: bytes, content_type: str = FORM) -> Answer:
    headers = {"Content-Type": content_type, "Host": "localhost"}
    return ask(app, "/upload", method="POST", headers=headers, body=blocks)


def refusal(content: bytes) -> str:
    """Why a file is refused by its start alone."""
    try:
        look(content[:LOOK])
    except DropError as error:
        return str(error)
    return ""


def test_mutated_files_are_kept_byte_for_byte_or_refused(app: FastAPI, drops: Path) -> None:
    kept = {}
    for number in range(400):
        random, content = Random(number), mutated(f"upload-{number}")
        if b"\r\n--" + BOUNDARY in content:
            continue
        answer = upload(app, *blocks_of(random, part(content, random.choice(FILE_NAMES)) + END))
        if answer.status == 202:
            kept[answer.json()["drop"]] = content
        else:
            assert (answer.status, answer.json()["detail"]) == (422, refusal(content)), number
            assert read(content) is None, number  # the validation would have refused it too
    found = {path.name.split(".")[0]: path.read_bytes() for path in drops.iterdir()}
    assert found == kept
    assert 100 < len(kept) < 395


def test_mutated_forms_are_taken_or_told_what_is_wrong(app: FastAPI, drops: Path) -> None:
    statuses = []
    for number in range(600):
        random = Random(number)
        body = mutated_bytes(random, part(SOUND, random.choice(FILE_NAMES)) + END)
        answer = upload(app, *blocks_of(random, body))
        assert answer.status in {202, 422}, (number, body)
        if answer.status == 202:
            assert b"--%b--" % BOUNDARY in body
        else:
            assert len(answer.json()["detail"]) < 2_500
        statuses.append(answer.status)
        assert all(not path.name.startswith(".") for path in drops.iterdir())
    assert 20 < statuses.count(202) < 550


@pytest.mark.parametrize("token", [token for token in TOKENS if not {0, 10, 13} & {*token}])
def test_any_content_type_is_read_or_refused(app: FastAPI, token: bytes) -> None:
    told = token.decode("latin-1")
    for content_type in (
        told,
        f"multipart/form-data; {told}",
        f"{FORM}{told}",
        f'{FORM}; x="{told}',
    ):
        answer = upload(app, part(SOUND), END, content_type=content_type)
        assert answer.status in {202, 415, 422}


@pytest.mark.parametrize("name", FILE_NAMES, ids=ascii)
def test_the_name_of_an_upload_is_never_a_path(
    app: FastAPI, settings: Settings, name: bytes
) -> None:
    before = {path for path in settings.home.rglob("*") if path.is_file()}
    answer = upload(app, part(SOUND, name), END)
    if answer.status == 422:  # the form cannot be read
        assert b"\n" in name or b"\r" in name or b"\0" in name
        return
    told = answer.json()
    assert re.fullmatch("([A-Za-z0-9]+-)+[0-9a-f]{32}", told["drop"])
    assert told["file_name"].isprintable()
    assert not {"/", "\\"} & {*told["file_name"]}
    new = {path for path in settings.home.rglob("*") if path.is_file()} - before
    assert settings.home / "drops" / f"{told['drop']}.csv" in new
    assert {path.parent for path in new} <= {settings.home / "drops", settings.home}


def test_uploads_of_one_name_do_not_overwrite_one_another(app: FastAPI, drops: Path) -> None:
    contents = [as_csv(make_prices(days=days)) for days in range(1, 6)]
    for content in contents:
        assert upload(app, part(content, b"../prices.csv"), END).status == 202
    assert sorted(path.read_bytes() for path in drops.iterdir()) == sorted(contents)


def test_a_header_comes_back_as_json_that_no_browser_takes_for_a_page(app: FastAPI) -> None:
    answer = upload(app, part(HTML.encode() + b"\nx"), END)
    assert HTML in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


# Files in the drop folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "drops"
    folder.mkdir(parents=True)
    return folder


def test_a_file_of_any_name_is_kept_in_its_place(
    folder: Path, store: Store, database: Database, tmp_path: Path
) -> None:
    contents = {}
    for number, name in enumerate(FILE_NAMES):
        try:
            path = Path(f"{folder}/{name.decode(errors='surrogateescape')}")
            if path.parent == folder and not path.is_dir():
                path.write_bytes(b"%d" % number)
                contents[path.name] = b"%d" % number
        except (OSError, ValueError):  # no file can be called so
            continue
    seen = look_at(Folder(folder))
    assert len(seen) > 30
    drops = {name: register(Folder(folder), name, store, database) for name in seen}
    kept = [f"drops/{drop.key}" for drop in drops.values()]
    assert names(store.files) == sorted(kept)
    for called, drop in drops.items():
        assert store.read_drop(drop.key, at_most=99) == contents[called]
        assert drop.file_name.isprintable()
        assert (folder / called).read_bytes() == contents[called]
    assert {path.stem for path in tmp_path.iterdir()} <= {"outside", "store", "predictions"}


NOTED = (
    b"ticker,sector,date,close,open,low,high,volume,note\n"
    b"AAPL,Technology,2019-06-27,180.45,179.5,178.25,181.75,20899700,%d"
)
ALIKE = 16_748_969, 44_745_539  # the SHA-256 of both begin with the same 48 bits


def test_a_file_made_to_look_like_another_does_not_take_its_place(
    folder: Path, store: Store, database: Database
) -> None:
    contents = [NOTED % number for number in ALIKE]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    assert digests[0][:12] == digests[1][:12]
    drops = []
    for content in contents:
        (folder / "prices.csv").write_bytes(content)
        drops.append(register(Folder(folder), "prices.csv", store, database))
    assert [store.read_drop(drop.key, at_most=999) for drop in drops] == contents
    assert drop_key("x" * 99, digests[0])[:64] == drop_key("x" * 99, digests[0])


# A real socket


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service as it is run; its log tells of no error in the end, one document a line."""
    with serving(new_home(tmp_path_factory.mktemp("served"))) as service:
        yield service
        service.get("/drops/the-last")
        log = service.home / "output.log"  # is written to some moments later
        wait_until("last line", lambda: "/drops/the-last" in log.read_text(), seconds=10)
    for line in log.read_text().splitlines():
        assert line.isprintable()
        assert json.loads(line)["level"] in {"info", "warning"}, line


HEAD = (
    b"POST /upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: multipart/form-data; boundary=cut-4f3a9c\r\n"
)
SENT = part(SOUND) + END


def converse(service: Service, *sent: bytes, breaks_off: bool = False) -> bytes:
    """What is answered to some bytes; who breaks off is not there to hear it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as peer:
        try:
            for some in sent:
                peer.sendall(some)
            if breaks_off:
                peer.shutdown(socket.SHUT_WR)
        except OSError:  # it does not listen any more
            pass
        told = b""
        try:
            while some := peer.recv(65_536):
                told += some
        except ConnectionError:
            pass
        return told


def statuses(told: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", told)]


def megabytes(service: Service) -> float:
    """Memory of the service's process."""
    size: int = psutil.Process(service.process.pid).memory_info().rss
    return size / 1e6


def demand_well(service: Service) -> None:
    """It answers, and nothing unfinished lies in the drop folder."""
    assert service.get("/healthz").status == 200
    hidden = service.home / "drops"
    wait_until("clean folder", lambda: not any(hidden.glob(".*")), seconds=10)


def test_a_body_longer_or_shorter_than_it_says(served: Service) -> None:
    whole = b"%bContent-Length: %d\r\n\r\n%b"
    assert statuses(converse(served, whole % (HEAD, len(SENT), SENT)))[:1] == [202]
    assert statuses(converse(served, whole % (HEAD, len(SENT) + 1, SENT), breaks_off=True)) == []
    assert statuses(converse(served, whole % (HEAD, len(SENT) - 9, SENT)))[0] == 422
    for length in (b"-1", b"0x10", b"1e3", b"9" * 30, b"1, 2", b"\xb2", b""):
        asked = b"%bContent-Length: %b\r\n\r\n%b" % (HEAD, length, SENT)
        assert {*statuses(converse(served, asked))} <= {400, 413, 422}
    both = b"%bContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % HEAD
    assert statuses(converse(served, both)) == [400]
    demand_well(served)


def test_chunks_of_any_kind(served: Service) -> None:
    head = b"%bTransfer-Encoding: chunked\r\n\r\n" % HEAD
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in SENT)
    assert statuses(converse(served, head + chunks + b"0\r\n\r\n"))[:1] == [202]
    for wrong in (b"x\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5;" + b"x" * 999 + b"\n"):
        assert {*statuses(converse(served, head + wrong + SENT))} <= {400, 422}
    demand_well(served)


@pytest.mark.parametrize(
    ("head", "bomb"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * (1 << 20)),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * (1 << 17)),
        (b"GET /", b"x" * (1 << 20)),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x" * (1 << 20)),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * (1 << 20)),
    ],
    ids=["a long header", "many headers", "a long address", "a long name", "a trailer"],
)
def test_no_more_of_a_head_is_kept_than_a_head_may_have(
    served: Service, head: bytes, bomb: bytes
) -> None:
    before = megabytes(served)
    told = converse(served, head, *[bomb] * 64)
    assert megabytes(served) - before < 16
    assert {*statuses(told)} <= {400, 422, 431}
    demand_well(served)


def test_a_head_of_the_size_that_is_promised_is_taken(served: Service) -> None:
    headers = {"X": "x" * (MOST_HEAD_BYTES - 1_000)}
    assert httpx.get(f"{served.url}/healthz", headers=headers).status_code == 200


def test_who_sends_slowly_keeps_nobody_waiting(served: Service) -> None:
    with closing(socket.create_connection(("127.0.0.1", served.port), timeout=10)) as peer:
        peer.sendall(b"%bContent-Length: %d\r\n\r\n" % (HEAD, len(SENT)))
        for byte in SENT[:40]:
            peer.sendall(bytes([byte]))
            begun = time.monotonic()
            assert httpx.get(f"{served.url}/healthz").status_code == 200
            assert time.monotonic() - begun < 5
        peer.sendall(SENT[40:])
        assert statuses(peer.recv(65_536)) == [202]


def test_a_gzip_bomb_is_taken_as_the_small_file_that_it_is(served: Service) -> None:
    head = gzip.compress(HEADER.encode() + b"\n")
    bomb = part(head + gzip.compress(b"\n" * (1 << 24)) * 64) + END
    before = megabytes(served)
    told = converse(served, b"%bContent-Length: %d\r\n\r\n" % (HEAD, len(bomb)), bomb)
    assert statuses(told)[0] in {202, 422}
    assert megabytes(served) - before < 32


@pytest.mark.parametrize("name", FILE_NAMES, ids=ascii)
def test_an_address_of_any_kind_is_one_line_of_the_log(served: Service, name: bytes) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in name)
    for path in (f"/{quoted}", f"/drops/{quoted}", f"/predict/{quoted}", f"/page/{quoted}"):
        asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        told = converse(served, asked.encode() + b"X-Request-ID: a\x9b31m\r\n\r\n")
        assert statuses(told)[0] in {200, 307, 404, 405, 422}
        assert b"\x9b" not in told


# What people see


@pytest.fixture
def hostile_sectors() -> bytes:
    """A sound file of tickers whose sectors are not what they seem."""
    prices = [
        make_prices(f"T{number}", days=3).assign(sector=sector)
        for number, sector in enumerate(sector for sector in SECTORS if sector.strip())
    ]
    return as_csv(pd.concat(prices))


def stored(database: Database, content: bytes, name: str = "x.csv") -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    drop = database.register_drop(drop_key(name, sha256), sha256, name, len(content))
    database.store_drop(drop, validate_csv(content, today=TODAY, max_bytes=1 << 30))


def test_sectors_are_stored_as_they_were_sent(hostile_sectors: bytes, database: Database) -> None:
    stored(database, hostile_sectors)
    found = database.read_prices()
    assert {*found["sector"]} == {sector.strip() for sector in SECTORS if sector.strip()}


def test_metrics_of_hostile_data_can_be_read(
    app: FastAPI, settings: Settings, hostile_sectors: bytes
) -> None:
    database = Database(settings.prediction_database_url)
    stored(database, hostile_sectors + b"\n".join(TOKENS[:40]).replace(b"\0", b""), HTML)
    database.engine.dispose()

    def look() -> list[str]:
        """The labels, once the database was not too slow for the scrape."""
        text = ask(app, "/metrics", headers={"Host": "localhost"}).body.decode()
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        labels = [label for sample in samples for label in sample.labels.values()]
        return labels if any("fields" in label for label in labels) else []

    labels = wait_until("metrics of rejected rows", look, seconds=60)
    assert [label for label in labels if "fields" in label] == [
        "has more or fewer fields than the header"
    ]
    assert all(label.isprintable() for label in labels)
    assert not any(HTML in label for label in labels)


@pytest.mark.parametrize("name", [name for name in FILE_NAMES if b"/" not in name], ids=ascii)
def test_the_console_shows_names_as_text(
    name: bytes,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from stock_assets.console import print_ingested  # noqa: PLC0415

    try:
        path = folder / name.decode(errors="surrogateescape")
        path.write_bytes(b"x")
    except (OSError, ValueError):
        pytest.skip("no file can be called so")
    database = Database(f"sqlite:///{tmp_path / 'names.db'}")
    drop = register(Folder(folder), path.name, Store(Folder(tmp_path / "kept")), database)
    database.engine.dispose()
    refused = f"{drop.file_name}: The file is empty."
    print_ingested([Ingested(drop, True, 0, 0, Counter(), refused)])  # noqa: FBT003
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert f"refused: {refused}\n" in printed
    assert len(printed.splitlines()) < 9


def test_tables_for_spreadsheets_hold_no_formulas(tmp_path: Path) -> None:
    write_report(some_forecasts(sectors=FORMULAS), tmp_path, HTML)
    with (tmp_path / "by_sector.csv").open(newline="") as file:
        sectors = {row["sector"] for row in csv.DictReader(file)}
    assert sectors == {f"'{sector}" for sector in FORMULAS}
    numbers = pd.read_csv(tmp_path / "backtest.csv")
    assert (numbers["dm"] < 0).any()  # of numbers nothing is a formula
    assert HTML not in (tmp_path / "backtest.html").read_text()


def test_a_wild_ticker_does_not_keep_others_from_being_forecast() -> None:
    prices = pd.concat([make_prices(name) for name in ("CALM", "WILD")], ignore_index=True)
    wild = prices["ticker"] == "WILD"
    swings = np.where(np.arange(wild.sum()) % 2, 1e300, 5e-324)
    for name in ("close", "open", "low", "high"):
        prices.loc[wild, name] = swings
    features = price_features(prices).assign(sector="Energy")
    panel, widths = Panel.of(features), interval_widths(features)
    training = forecasting.train(panel, candidates(["ridge"]), {}, widths)
    told = forecasting.forecast(panel, training.weights(), [training.artifact], {}, widths)
    told["is_champion"] = told["model"] == "naive"
    assert all(result.passed for result in checks.results("forecasts", told, panel.tickers))
    pictures = dict(forecast_metadata(panel, told))
    assert {*pictures} == {"CALM", "WILD"}
    assert told.loc[told["ticker"] == "WILD", "hi_95"].max() == 1e300


# The page


@pytest.fixture
def address(app: FastAPI, settings: Settings, hostile_sectors: bytes) -> Iterator[str]:
    """The real service, with hostile sectors."""
    database = Database(settings.prediction_database_url)
    stored(database, hostile_sectors)
    database.engine.dispose()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{patiently(lambda: port_of(server))}/"
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def tab(address: str) -> Iterator[Tab]:
    """The real page; no script has failed in the end."""
    path = chromium_path()
    if path is None:
        pytest.skip("There is no Chromium.")
    with chromium(path) as browser:
        tab = browser.tab()
        tab.watch()
        tab.open(address)
        tab.wait("document.querySelector('main[aria-busy=false]')")
        yield tab
        tab.evaluate("1")
        assert tab.errors == []


def port_of(server: uvicorn.Server) -> int:
    if not server.started:
        raise OSError("It does not answer yet.")
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


def test_the_page_shows_what_was_uploaded_as_text(tab: Tab, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('.list tbody tr')].map(row => row.innerText).join()"
    for sector in (HTML, "[red]x[/]", "${jndi:ldap://x}", FORMULAS[0]):
        assert sector in tab.evaluate(shown)
    file = tmp_path / f"{HTML} [bold].csv"
    file.write_bytes(f"{HEADER},{HTML}\n{HTML},{HTML},,,,,,,x\n".encode())
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(f"{HTML}\nx")
    tab.choose("#files", file, wrong)
    tab.wait("document.querySelectorAll('.fate').length === 2")
    tab.wait("document.querySelector('.fate.failed')")
    tab.wait(f"document.querySelector('#fates').innerText.includes('Ignored columns: {HTML}')")
    told = tab.evaluate("document.querySelector('#fates').innerText")
    assert f"{HTML} [bold].csv" in told
    assert f"line 1 is '{HTML}'" in told
    assert tab.evaluate("document.querySelectorAll('img, [onerror]').length") == 0
    assert [words[:3] for words in tab.failed] == ["422"]
