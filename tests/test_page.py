"""The page in a real Chromium, against a service of a few lines that keeps to the contract."""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse

import stock_assets.api
from stock_assets.api import answers
from tests.browser import Browser, Tab, chromium, chromium_path, patiently

PAGE = Path(stock_assets.api.__file__).parent / "page"
CSP = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HOSTILE = "<img src=x onerror=alert(1)>"
MODELS = {"naive": 1.0, "ridge": 1.004, "random_forest": 1.021, "gradient_boosting": None}
SECTORS = ("Technology", "Energy", "Health Care", "Utilities")
NAMES = ("AAPL", "AMD", "BRK.B", "FB", "GOOG", "IBM", "MSFT", "T", "XOM")
H = np.arange(1, 11)
STATES = ("queued", "accepted", "ready")  # of a drop, poll by poll
DETAILS = {
    answers.Fate.QUEUED: "It is kept, and taken when Dagster is up.",
    answers.Fate.ACCEPTED: "Its tickers wait for forecasts.",
    answers.Fate.FAILED: "It has a column close twice.",
}


@dataclass
class Stub:
    """What the service knows, and how it behaves just now."""

    names: tuple[str, ...] = NAMES
    key: str = ""
    untold: tuple[str, ...] = ("gradient_boosting",)  # models without a forecast
    address: str = ""
    polls: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def known(self, ticker: str) -> None:
        """Raise what the service says of a ticker it does not know."""
        if ticker not in self.names:
            raise HTTPException(404, f"No prices of {ticker}. Did you mean AAPL?")

    def market(self, ticker: str) -> tuple[list[answers.Close], np.ndarray[Any, Any]]:
        """250 closes, and how uncertain each day ahead is."""
        random = np.random.default_rng([*ticker.encode()])
        daily = random.uniform(0.008, 0.03)
        closes = random.uniform(5, 900) * np.exp(np.cumsum(random.normal(0, daily, 250)))
        days = [date(2026, 11, 20) - timedelta(back) for back in range(349, -1, -1)]
        days = [day for day in days if day.weekday() < 5][-250:]
        known = [
            answers.Close(date=day, close=round(close, 2))
            for day, close in zip(days, closes, strict=True)
        ]
        return known, daily * np.sqrt(H)

    def forecast(self, ticker: str, model: str) -> answers.Forecast:
        """What a model tells; IBM has newer prices."""
        closes, spread = self.market(ticker)
        last = closes[-1]
        tilt = 0.0 if model == "naive" else 0.004
        days = [
            answers.Day(
                h=h,
                date=last.date + timedelta(int(h + 2 * ((h + 4) // 5))),
                close=last.close * math.exp(tilt * h),
                **{
                    f"{side}_{level}": last.close * math.exp(tilt * h + sign * z * wide)
                    for side, sign in (("lo", -1), ("hi", 1))
                    for level, z in ((80, 1.28), (95, 2.1))
                },
            )
            for h, wide in zip(H.tolist(), spread, strict=True)
        ]
        return answers.Forecast(
            ticker=ticker,
            sector=self.sector(ticker),
            as_of=last.date,
            last_close=last.close,
            model=model,
            model_version="1f0c94a1b2c3",
            is_champion=model == "naive",
            reason="naive is the champion: none of 4 challengers beats it beyond noise.",
            mae_ratio=MODELS[model],
            coverage_80=0.796,
            coverage_95=0.935,
            forecast_at=datetime.now(UTC) - timedelta(minutes=12),
            is_current=ticker != "IBM",
            days=days,
        )

    def sector(self, ticker: str) -> str:
        """One of a few."""
        return SECTORS[sum(ticker.encode()) % len(SECTORS)]

    def row(self, ticker: str) -> answers.TickerRow:
        """The ticker in the table."""
        told = self.forecast(ticker, "naive")
        return answers.TickerRow(
            ticker=ticker,
            sector=told.sector,
            first_date=date(2015, 1, 2),
            last_date=told.as_of,
            days=250 + sum(ticker.encode()),
            champion=told.model,
            last_close=told.last_close,
            close=told.days[-1].close,
            lo_80=told.days[-1].lo_80,
            hi_80=told.days[-1].hi_80,
            mae_ratio=told.mae_ratio,
            forecast_at=told.forecast_at,
            forecast_age_seconds=720,
            is_current=told.is_current,
        )

    def scores(self, ticker: str) -> list[answers.Score]:
        """Of 20 days each: 16 inside 80 %, 18 inside 95 %."""
        closes, _ = self.market(ticker)
        return [
            answers.Score(
                as_of=closes[-1 - h - back].date,
                h=h,
                date=closes[-1 - back].date,
                model="naive",
                close=closes[-1 - h - back].close,
                actual_close=closes[-1 - back].close,
                error=math.log(closes[-1 - back].close / closes[-1 - h - back].close),
                naive_error=math.log(closes[-1 - back].close / closes[-1 - h - back].close),
                inside_80=back % 5 != 2,
                inside_95=back % 10 != 2,
            )
            for back in range(20)
            for h in H.tolist()
        ]


def app_of(stub: Stub) -> FastAPI:
    """The routes that the page asks."""
    app = FastAPI()
    serve_page(app, stub)
    serve_forecasts(app, stub)
    serve_work(app, stub)
    return app


def serve_page(app: FastAPI, stub: Stub) -> None:
    @app.middleware("http")
    async def guard(request: Request, call: Any) -> Response:
        stub.asked.append(f"{request.method} {request.url.path.removeprefix('/')}")
        is_page = request.url.path == "/" or request.url.path.startswith("/page/")
        told = request.headers.get("authorization", "").removeprefix("Bearer ")
        if stub.key and told != stub.key and not is_page:
            return problem(401, "That key is not known." if told else "A key is needed.")
        answer: Response = await call(request)
        answer.headers["Content-Security-Policy"] = CSP
        return answer

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> Response:
        return problem(error.status_code, error.detail)

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}")
    def page(name: str) -> FileResponse:
        return FileResponse(PAGE / name)


def serve_forecasts(app: FastAPI, stub: Stub) -> None:
    @app.get("/tickers")
    def tickers(
        q: str = "", sort: str = "ticker", limit: int = 50, offset: int = 0
    ) -> answers.TickerList:
        def key(ticker: str) -> Any:
            row, name = stub.row(ticker), sort.removeprefix("-")
            if name == "width":
                return ((row.hi_80 or 0) - (row.lo_80 or 0)) / (row.last_close or 1)
            return getattr(row, name)

        found = [
            one for one in stub.names if q.lower() in one.lower() or q in stub.sector(one).lower()
        ]
        if sort != "ticker":
            found.sort(key=key, reverse=sort.startswith("-"))
        rows = [stub.row(one) for one in found[offset : offset + limit]]
        return answers.TickerList(total=len(found), tickers=rows, next=None)

    @app.get("/tickers/{ticker}")
    def ticker(ticker: str, closes: int = 250) -> answers.TickerReport:
        stub.known(ticker)
        known, _ = stub.market(ticker)
        models = [
            answers.Model(
                model=name,
                is_champion=name == "naive",
                days=250,
                trained_to=known[-1].date,
                origins=0 if ratio is None else 60,
                mae_ratio=ratio,
                coverage_80=None if ratio is None else 0.796,
                coverage_95=None if ratio is None else 0.935,
            )
            for name, ratio in MODELS.items()
        ]
        return answers.TickerReport(
            ticker=ticker,
            sector=stub.sector(ticker),
            first_date=known[0].date,
            last_date=known[-1].date,
            days=len(known),
            closes=known[-closes:],
            models=models,
            scores=stub.scores(ticker),
        )

    @app.get("/predict/{ticker}")
    def predict(ticker: str, model: str = "naive") -> answers.Forecast:
        stub.known(ticker)
        if model in stub.untold:
            raise HTTPException(409, f"{model} has not forecast this ticker yet.")
        return stub.forecast(ticker, model)


def serve_work(app: FastAPI, stub: Stub) -> None:
    @app.post("/upload", status_code=202)
    def upload(file: UploadFile) -> answers.Upload:
        name = file.filename or ""
        if name.endswith(".txt"):
            raise HTTPException(422, "No header found; expected ticker,sector,date,...")
        return answers.Upload(
            drop=name,
            is_new=True,
            file_name=name,
            size=1,
            ignored_columns=["note"],
            doubts=["Line 2: sector is empty"],
            follow=f"/drops/{name}",
        )

    @app.get("/drops/{drop}")
    def report(drop: str) -> answers.DropReport:
        poll = stub.polls[drop] = stub.polls.get(drop, -1) + 1
        state = STATES[min(poll, len(STATES) - 1)]
        fate = answers.Fate.ACCEPTED if state == "ready" else answers.Fate(state)
        if "broken" in drop and state != "queued":
            fate = answers.Fate.FAILED
        stored = fate == answers.Fate.ACCEPTED
        return answers.DropReport(
            drop=drop,
            file_name=drop,
            size=1,
            received_at=datetime.now(UTC),
            status=fate,
            detail=DETAILS.get(fate, ""),
            rows_read=1200 if stored else None,
            accepted=1195 if stored else None,
            collapsed=3 if stored else None,
            rejected=2 if stored else None,
            reasons=[answers.Reason(reason="low is above open or close", rows=2)] if stored else [],
            tickers=["AAPL", "AMD"] if stored else [],
            waiting=0 if state == "ready" else 2,
        )

    @app.post("/train/{ticker}", status_code=202)
    def train(ticker: str) -> answers.Training:
        return answers.Training(
            runs=[answers.Launched(run=ticker, tickers=[ticker], follow=f"/runs/{ticker}")],
            lacking=[],
        )

    @app.get("/runs/{run}")
    def run(run: str) -> answers.RunReport:
        poll = stub.polls[run] = stub.polls.get(run, -1) + 1
        end = answers.RunStatus.FAILED if run == "IBM" else answers.RunStatus.SUCCEEDED
        status = end if poll else answers.RunStatus.QUEUED
        detail = "The worker was lost." if status == answers.RunStatus.FAILED else ""
        return answers.RunReport(
            run=run,
            job="refresh_tickers",
            status=status,
            detail=detail,
            started_at=None,
            ended_at=None,
        )


def problem(status: int, detail: str) -> Response:
    told = answers.Problem(title="No", status=status, detail=detail, request_id="4f0c1d2ab93e4f7c")
    return JSONResponse(told.model_dump(), status, media_type="application/problem+json")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("There is no Chromium.")
    with chromium(path) as started:
        yield started


@pytest.fixture(scope="module")
def served() -> Iterator[Stub]:
    stub = Stub()
    app = app_of(stub)
    config = uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    stub.address = f"http://127.0.0.1:{patiently(lambda: port_of(server))}/"
    yield stub
    server.should_exit = server.force_exit = True
    thread.join()


def port_of(server: uvicorn.Server) -> int:
    if not server.started:
        raise OSError("It does not answer yet.")
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


@pytest.fixture
def stub(served: Stub) -> Stub:
    """The stub, which knows nothing of earlier tests."""
    vars(served).update(vars(Stub(address=served.address)))
    return served


@pytest.fixture
def tab(browser: Browser, stub: Stub) -> Iterator[Tab]:
    """The page, open and watched; neither a script nor the CSP has complained in the end."""
    tab = browser.tab()
    tab.watch()
    tab.resize(1280, 800)
    tab.open(stub.address)
    tab.wait("document.querySelector('main[aria-busy=false]')")
    yield tab
    tab.evaluate("1")  # whatever was said until now is heard
    assert tab.errors == []
    tab.close()


def rows(tab: Tab) -> Any:
    return tab.evaluate("[...document.querySelectorAll('.list tbody a')].map(a => a.textContent)")


def shown(*names: str) -> str:
    """JavaScript: whether the list shows these and no others."""
    found = "[...document.querySelectorAll('.list tbody a')].map(a => a.textContent).join()"
    return f"{found} === {','.join(names)!r}"


def text(selector: str) -> str:
    """JavaScript: what an element says."""
    return f"document.querySelector({selector!r})?.textContent"


def open_ticker(tab: Tab, name: str) -> None:
    tab.evaluate(f"location.hash = {name!r}")
    tab.wait(f"{text('h1')} === {name!r} && document.querySelector('#chart .closes')")


def test_search_opens_the_first_by_keyboard_and_back_returns(tab: Tab) -> None:
    tab.press("/")
    tab.write("m")
    tab.wait(shown("AMD", "IBM", "MSFT", "XOM"))
    tab.press("s")  # is not typed through insertText: the live search hears keys as well
    tab.wait(shown("MSFT"))
    tab.press("Enter")
    tab.wait(f"{text('h1')} === 'MSFT'")
    assert tab.evaluate("[location.hash, document.title, document.activeElement.id]") == [
        "#MSFT",
        "MSFT · stock-assets",
        "title",
    ]
    tab.evaluate("history.back()")
    tab.wait(shown("MSFT"))
    assert tab.evaluate("[location.hash, document.activeElement.id]") == ["#?q=ms", "row-MSFT"]
    tab.evaluate("history.forward()")
    tab.wait(f"{text('h1')} === 'MSFT'")
    assert tab.failed == []


def test_enter_does_not_wait_for_the_live_search(tab: Tab) -> None:
    tab.press("/")
    tab.write("goog")
    tab.press("Enter")
    tab.wait("location.hash === '#GOOG'")


def test_a_search_without_a_hit_says_so(tab: Tab) -> None:
    tab.press("/")
    tab.write(HOSTILE)
    tab.wait(f"{text('main')}.includes('No ticker or sector has “{HOSTILE}” in it.')")
    assert not tab.evaluate("document.querySelector('main img')")


def test_sorting_and_the_keys_of_the_table(tab: Tab, stub: Stub) -> None:
    by_width = sorted(stub.names, key=lambda one: stub.market(one)[1][-1])
    tab.click("#sort-width")
    tab.wait(shown(*reversed(by_width)))
    assert tab.evaluate("document.activeElement.id") == "sort-width"
    tab.press("Enter")
    tab.wait(shown(*by_width))
    header = "document.querySelector('#sort-width').closest('th').getAttribute('aria-sort')"
    assert tab.evaluate(header) == "ascending"
    tab.press("/", "ArrowDown", "ArrowDown", "Enter")
    tab.wait(f"{text('h1')} === {by_width[1]!r}")


def test_pages(tab: Tab, stub: Stub) -> None:
    stub.names = tuple(f"T{number:03}" for number in range(120))
    tab.evaluate("location.hash = '?sort=ticker'")
    tab.wait(f"{text('#total')} === '1 to 50 of 120'")
    tab.click("#top-next")
    tab.wait(f"{text('#total')} === '51 to 100 of 120'")
    tab.click("#bottom-next")
    tab.wait(f"{text('#total')} === '101 to 120 of 120'")
    assert rows(tab)[0] == "T100"
    assert not tab.evaluate("document.querySelector('a#top-next')")


def test_a_platform_without_prices_says_what_to_do(tab: Tab, stub: Stub) -> None:
    stub.names = ()
    tab.evaluate("location.hash = '?'")
    tab.wait(f"{text('main')}.includes('ticker,sector,date,close,open,low,high,volume')")


def test_a_ticker(tab: Tab, stub: Stub) -> None:
    open_ticker(tab, "IBM")
    told = stub.forecast("IBM", "naive")
    facts = tab.evaluate("document.querySelector('.facts').innerText")
    for words in (
        "1.000 \N{MULTIPLICATION SIGN} naive",
        "12 min ago",
        "not current",
        "champion",
        told.reason,
    ):
        assert words in facts
    assert f"{told.days[-1].lo_95:,.2f} to {told.days[-1].hi_95:,.2f}" in facts
    assert tab.evaluate("document.querySelectorAll('.band').length") == 2
    sentence = tab.evaluate("document.querySelector('#chart[role=img]').ariaLabel")
    assert f"naive tells {told.last_close:,.2f} for {told.days[-1].date}" in sentence
    totals = tab.evaluate("[...document.querySelectorAll('.totals b')].map(b => b.textContent)")
    assert totals[:3] + totals[4:] == ["20", "80.0 %", "90.0 %", "1.000"]
    tab.click("#ahead-1")
    tab.wait("document.querySelector('#ahead-1').checked && document.activeElement.id == 'ahead-1'")
    tab.wait("document.querySelectorAll('.small .mark.out').length === 2")


def test_what_all_models_have_in_common_is_said_once(tab: Tab) -> None:
    open_ticker(tab, "AAPL")
    heads = "[...document.querySelectorAll('[aria-label=Models] th')].map(th => th.textContent)"
    assert tab.evaluate(heads)[1:] == ["Error / naive", "Inside 80 %", "Inside 95 %", "Backtest"]
    models = tab.evaluate("document.querySelector('[aria-label=Models]').parentElement.innerText")
    assert models.count("Trained on 250 days to 2026-11-20") == 1


def test_a_forecast_without_the_newest_prices_is_told_apart_in_the_list(tab: Tab) -> None:
    last = "document.querySelector('#row-{}').closest('tr').lastChild.textContent"
    assert tab.evaluate(last.format("IBM")) == "old, 12 min ago"
    assert tab.evaluate(last.format("AAPL")) == "12 min ago"


def test_on_a_small_screen_no_table_is_cut_off(tab: Tab) -> None:
    cut = (
        "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
        ".map(one => one.ariaLabel)"
    )
    assert tab.evaluate("innerWidth") == 1280
    assert tab.evaluate(cut) == []
    open_ticker(tab, "IBM")
    assert tab.evaluate("document.querySelectorAll('.scroll').length") == 3
    assert tab.evaluate(cut) == []


def test_another_model_is_drawn(tab: Tab) -> None:
    open_ticker(tab, "AAPL")
    assert "not current" not in tab.evaluate(text(".facts"))
    champion = tab.evaluate("document.querySelector('#chart .told').getAttribute('d')")
    tab.evaluate("document.querySelector('#model-naive').focus()")
    tab.press("ArrowRight")
    tab.wait(f"{text('.facts')}.includes('1.004 \N{MULTIPLICATION SIGN} naive')")
    tab.wait("document.querySelector('#chart .champion-path')")
    assert tab.evaluate("document.querySelector('#chart .told').getAttribute('d')") != champion
    assert tab.evaluate("[location.hash, document.activeElement.id]") == [
        "#AAPL?model=ridge",
        "model-ridge",
    ]
    tab.evaluate("document.querySelector('#model-gradient_boosting').click()")
    tab.wait(f"{text('.facts')}.includes('has not forecast this ticker yet')")
    assert [words[:3] for words in tab.failed] == ["409"]


def test_a_champion_without_a_forecast(tab: Tab, stub: Stub) -> None:
    stub.untold = ("naive",)
    open_ticker(tab, "AAPL")
    trouble = f"{text('.problem')} === 'naive has not forecast this ticker yet.'"
    assert tab.evaluate(trouble)
    assert tab.evaluate("document.querySelectorAll('.band').length") == 0
    tab.click("#model-ridge")
    tab.wait("document.querySelectorAll('.band').length === 2")
    tab.click("#model-naive")
    tab.wait(trouble)


def test_a_click_while_a_search_is_typed_wins(tab: Tab) -> None:
    tab.press("/")
    tab.evaluate(
        "search.value = 'zzz', search.dispatchEvent(new Event('input')),"
        "document.querySelector('#row-IBM').closest('tr').lastChild.click()"
    )
    tab.wait(f"{text('h1')} === 'IBM'")
    tab.wait("new Promise(later => setTimeout(() => later(true), 200))")  # the search would be due
    assert tab.evaluate("[location.hash, search.value]") == ["#IBM", ""]


def test_the_crosshair_follows_arrow_keys_and_the_mouse(tab: Tab, stub: Stub) -> None:
    open_ticker(tab, "AAPL")
    closes, _ = stub.market("AAPL")
    told = stub.forecast("AAPL", "naive").days
    tab.evaluate("document.querySelector('#chart').focus()")
    tab.press("ArrowLeft")
    tab.wait(f"{text('#reading')}.startsWith('{closes[-2].date}close {closes[-2].close:,.2f}')")
    tab.press("End")
    tab.wait(f"{text('#reading')}.startsWith('{told[-1].date}day 10 {told[-1].close:,.2f}')")
    assert f"{told[-1].lo_80:,.2f} to {told[-1].hi_80:,.2f}" in tab.evaluate(text("#reading"))
    tab.press("Escape")
    tab.wait(f"{text('#reading')}.startsWith('close')")
    tab.point("#chart", 0.02)
    tab.wait(f"{text('#reading')}.startsWith('{closes[-119].date}')")


def test_on_a_phone_only_tables_scroll_sideways(tab: Tab) -> None:
    open_ticker(tab, "AAPL")
    tab.resize(390, 844)
    tab.wait("document.querySelector('#chart').viewBox.baseVal.width < 390")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.evaluate("location.hash = ''")
    tab.wait(f"{text('h1')} === 'All tickers'")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelector('.list .scroll').scrollBy(99, 0), scrollX") == 0
    assert tab.evaluate("document.querySelector('.list .scroll').scrollLeft") == 99


def test_files_dropped_and_what_becomes_of_them(tab: Tab, tmp_path: Path) -> None:
    files = [tmp_path / name for name in (f"{HOSTILE}.csv", "broken.csv", "notes.txt")]
    for file in files:
        file.write_text("ticker\n")
    tab.drag("dragEnter", *files)
    tab.wait("!document.querySelector('#veil').hidden")
    tab.drag("drop", *files)
    tab.wait("document.querySelectorAll('.fate').length === 3")
    assert tab.evaluate("document.querySelector('#veil').hidden")
    tab.wait("document.querySelectorAll('.fate.failed').length === 2")
    tab.wait("document.querySelector('.fate.ready')")
    fates = tab.evaluate("[...document.querySelectorAll('.fate')].map(fate => fate.innerText)")
    told = "\n".join(fates)
    for words in (
        f"{HOSTILE}.csv",
        "Forecasts are ready: AAPL AMD",
        "1,200 rows: 1,195 accepted, 3 collapsed, 2 rejected",
        "Ignored columns: note",
        "None of its first rows can be taken. Line 2: sector is empty.",
        "It has a column close twice.",
        "No header found; expected ticker,sector,date,...",
    ):
        assert words in " ".join(told.split())
    assert not tab.evaluate("document.querySelector('#fates img')")
    tab.click(".fate.ready .links a")
    tab.wait(f"{text('h1')} === 'AAPL'")
    tab.click(".fate.ready .plain")
    tab.wait("document.querySelectorAll('.fate').length === 2")
    assert [words[:3] for words in tab.failed] == ["422"]


def test_a_chosen_file_is_followed_through_a_lost_connection(tab: Tab, tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("ticker\n")
    tab.choose("#files", file)
    tab.wait(f"{text('.fate')}?.includes('It is kept, and taken when Dagster is up.')")
    tab.offline(yes=True)
    tab.wait(f"{text('.fate .lost')} === 'The service cannot be reached. Trying again.'")
    tab.offline(yes=False)
    to_go = "Stored. Its tickers wait for forecasts. 2 of 2 to go."
    tab.wait(f"{text('.fate .words p')} === {to_go!r}")
    tab.wait("document.querySelector('.fate.ready')")
    assert not tab.evaluate("document.querySelector('.fate .lost')")


def test_training_anew(tab: Tab, stub: Stub) -> None:
    open_ticker(tab, "AAPL")
    tab.click("#train")
    tab.wait("document.querySelector('#train').disabled")
    tab.wait("document.querySelector('.fate.ready')")
    tab.wait("document.querySelector('#view[aria-busy=false] #train:enabled')")
    assert stub.asked.count("GET tickers/AAPL") == 2  # shown anew
    open_ticker(tab, "IBM")
    tab.click("#train")
    tab.wait(f"{text('.fate.failed')}?.includes('The worker was lost.')")


def test_a_key_is_asked_for_once_and_the_call_repeated(tab: Tab, stub: Stub) -> None:
    stub.key = "secret"
    tab.evaluate("location.hash = 'AAPL'")  # asks two things at once
    tab.wait("document.querySelector('#ask').open")
    assert tab.evaluate(text("#ask-why")) == "A key is needed."
    tab.write("wrong")
    tab.press("Enter")
    tab.wait(f"document.querySelector('#ask').open && {text('#ask-why')}.includes('not known')")
    tab.write("secret")
    tab.press("Enter")
    tab.wait(f"{text('h1')} === 'AAPL' && document.querySelector('#chart .closes')")
    assert tab.evaluate("Object.values(sessionStorage)") == ["secret"]
    assert not tab.evaluate("document.querySelector('#ask').open")
    tab.evaluate("sessionStorage.clear()")
    tab.evaluate("location.hash = 'IBM'")
    tab.wait("document.querySelector('#ask').open")
    tab.press("Escape")
    tab.wait(f"{text('.problem')} === 'A key is needed.'")


def test_an_unknown_ticker_and_a_hostile_one(tab: Tab) -> None:
    tab.evaluate("location.hash = 'APPL'")
    tab.wait(f"{text('.problem')} === 'No prices of APPL. Did you mean AAPL?'")
    tab.evaluate(f"location.hash = encodeURIComponent({HOSTILE!r})")
    tab.wait(f"{text('.problem')} === 'No prices of {HOSTILE}. Did you mean AAPL?'")
    assert not tab.evaluate("document.querySelector('main img')")


def test_a_hostile_name_in_the_table_is_text(tab: Tab, stub: Stub) -> None:
    stub.names = (HOSTILE,)
    tab.evaluate("location.hash = '?sort=ticker'")
    tab.wait(shown(HOSTILE))
    tab.click(".list tbody a")
    tab.wait(f"{text('h1')} === {HOSTILE!r} && document.querySelector('#chart .closes')")
    assert not tab.evaluate("document.querySelector('main img')")


def test_errors_are_noted(tab: Tab) -> None:
    """What the other tests rely on: they fail if a script fails or the CSP is broken."""
    tab.evaluate(
        "console.error('of the console'), setTimeout(() => { throw Error('of a script') })"
    )
    tab.evaluate("document.body.setAttribute('style', 'color: red')")
    tab.wait("new Promise(told => setTimeout(() => told(true)))")
    noted = "\n".join(tab.errors)
    assert "of the console" in noted
    assert "of a script" in noted
    assert "Content Security Policy" in noted
    tab.errors.clear()
