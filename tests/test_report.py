"""The report of a backtest: whole, self-contained, and true to the numbers it is made from."""

import base64
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from stock_assets import backtest
from stock_assets.backtest import CHAMPION, Forecasts
from stock_assets.models import NAIVE, H
from stock_assets.report import write_report

FILES = ["backtest.html", "backtest.csv", "by_quarter.csv", "by_sector.csv"]
NEVER_CLOSED = {"meta", "img"}


class _Page(HTMLParser):
    """What a browser would find: elements that close in order, pictures, tables, plain text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for *where, value in self.attributes if where == [tag, attribute]]


def forecasts(days: int = 40, sectors: tuple[str, ...] = ("Energy", "Utilities")) -> Forecasts:
    """Six tickers on every fifth business day, and models that know a little or nothing."""
    random = np.random.default_rng(0)
    dates = pd.bdate_range("2018-03-01", periods=5 * days)[::5]
    origins = pd.DataFrame(
        [
            (f"T{number}", sectors[number % len(sectors)], day, 100.0, 0.01)
            for number in range(6)
            for day in dates
        ],
        columns=["ticker", "sector", "as_of", "last_close", "mase_scale"],
    )
    n = len(origins)
    actual = random.normal(0, 0.015, (n, H)).cumsum(axis=1)
    gaussian = np.empty((n, 2, H))
    gaussian[:] = np.array([1.28, 1.96])[:, None] * 0.015 * np.sqrt(np.arange(1, H + 1))
    paths = {
        NAIVE: np.zeros((n, H)),
        "ridge": 0.02 * actual + random.normal(0, 1e-3, (n, H)),
        CHAMPION: 0.05 * actual,
        "random_forest_on_prices": random.normal(0, 0.05, (n, H)),
    }
    return Forecasts(
        origins=origins,
        actual=actual,
        gaussian=gaussian,
        paths=paths,
        half_widths=dict.fromkeys(paths, 1.05 * gaussian),
        champions={day.date(): "ridge" if n > 2 else NAIVE for n, day in enumerate(dates)},
    )


FOUND = forecasts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report") / "of" / "a_walk"
    assert write_report(FOUND, made, "A <script>alert('&')</script> walk") == [
        made / name for name in FILES
    ]
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> _Page:
    return _Page(folder / "backtest.html")


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("backtest.csv", backtest.summary(FOUND)),
        ("by_quarter.csv", backtest.breakdown(FOUND, "quarter")),
        ("by_sector.csv", backtest.breakdown(FOUND, "sector")),
    ],
)
def test_tables_are_the_frames_to_the_last_digit(
    folder: Path, name: str, frame: pd.DataFrame
) -> None:
    read = pd.read_csv(folder / name, float_precision="round_trip")
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_nothing_but_the_files_is_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_the_page_is_well_formed(page: _Page) -> None:
    assert page.source.startswith("<!doctype html>")
    assert page.open == []
    assert not re.search(r"<(?![a-z/!])|&(?!\w+;|#)", page.source)
    assert page.tags.count("table") == 3
    assert {len(row) for row in page.rows} == {1, 14, 5, 3}  # of a heading and of the tables


def test_the_page_needs_no_network_and_runs_nothing(page: _Page) -> None:
    assert not {"script", "link", "iframe", "object", "a", "base"} & set(page.tags)
    assert all(
        value.startswith("data:image/svg+xml;base64,") for value in page.values("img", "src")
    )
    assert {name for _, name, _ in page.attributes} <= {
        *("lang", "charset", "name", "content", "class", "scope", "colspan", "alt", "src")
    }
    assert not re.search(r"https?:|@import|url\(", page.source)


def test_the_title_is_text(page: _Page) -> None:
    assert page.source.count("A &lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt; walk") == 2


def test_the_page_says_what_was_measured(page: _Page) -> None:
    days = FOUND.origins["as_of"]
    assert f"{days.min().date()} to {days.max().date()}: 40 days" in page.text
    assert "6 tickers, 240 forecasts of 10 closes" in page.text


def test_the_table_holds_the_measured_numbers(page: _Page) -> None:
    summary = backtest.summary(FOUND)
    champion = summary[summary["model"] == CHAMPION].set_index("h")
    rows = [row for row in page.rows if row[0] == CHAMPION]
    assert len(rows) == 3
    for h, row in zip((1, 5, 10), rows, strict=True):
        of = champion.iloc[h - 1]
        assert row[1:4] == ["240", f"{of['mae_ratio']:.4f}", f"{of['mase']:.3f}"]
        assert row[4:6] == [f"{100 * of['rmse']:.2f}", f"{of['dm']:.2f}"]
        assert row[8:11] == [
            f"{100 * of['coverage_80']:.1f} ± {100 * of['coverage_80_se']:.1f}",
            f"{100 * of['width_80']:.1f}",
            f"{of['winkler_80']:.3f}",
        ]


def test_pictures_are_told_in_words_with_their_numbers(page: _Page) -> None:
    reliability, errors, quarters = page.values("img", "alt")
    error = np.abs(FOUND.actual - FOUND.paths[CHAMPION])
    held = 100 * (error <= FOUND.half_widths[CHAMPION][:, 0]).mean(axis=0)
    assert f"80 %: {', '.join(f'{share:.1f}' for share in held)} %" in reliability
    ratios = error.mean(axis=0) / np.abs(FOUND.actual).mean(axis=0)
    assert f"{CHAMPION}: {', '.join(f'{ratio:.4f}' for ratio in ratios)}" in errors
    first = (FOUND.origins["as_of"] < "2018-04-01").to_numpy()
    ratio = error[first, -1].mean() / np.abs(FOUND.actual[first, -1]).mean()
    held = 100 * (error <= FOUND.half_widths[CHAMPION][:, 0])[first].mean(axis=0)
    assert f"2018Q1: {ratio:.4f}, {held[-1]:.1f} %" in quarters


def test_pictures_are_pictures(page: _Page) -> None:
    for source in page.values("img", "src"):
        picture = ET.fromstring(base64.b64decode(source.partition(",")[2]))  # noqa: S314  our own
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(picture.iter())) > 100


def test_sectors_and_champions_have_their_rows(page: _Page) -> None:
    sectors = backtest.breakdown(FOUND, "sector")
    energy = sectors[(sectors["model"] == CHAMPION) & (sectors["sector"] == "Energy")].iloc[0]
    assert [row[:3] for row in page.rows if row[0] == "Energy"] == [
        ["Energy", "120", f"{energy['mae_ratio']:.4f}"]
    ]
    assert page.rows[-2:] == [["2018-03-01", "3", NAIVE], ["2018-03-22", "37", "ridge"]]


def test_text_of_the_data_is_escaped(tmp_path: Path) -> None:
    sector = "<b>Oil & $as</b>"
    write_report(forecasts(4, (sector,)), tmp_path, "$title ${last}")
    page = _Page(tmp_path / "backtest.html")
    assert "b" not in page.tags
    assert sector in [row[0] for row in page.rows]
    assert page.text.count("$title ${last}") == 2


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    write_report(forecasts(4), tmp_path, "First")
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    write_report(forecasts(4), tmp_path, "First")
    assert before == {name: (tmp_path / name).read_bytes() for name in FILES}
    write_report(forecasts(5), tmp_path, "Second")
    assert all((tmp_path / name).read_bytes() != before[name] for name in FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_report_that_fails_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(forecasts(4), tmp_path, "First")
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def full(path: Path, text: str, **_: str) -> None:
        path.write_bytes(text[:100].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(forecasts(5), tmp_path, "Second")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_that_did_not_always_forecast(tmp_path: Path) -> None:
    name = "random_forest_on_prices"
    paths = {model: path.copy() for model, path in FOUND.paths.items()}
    paths[name][FOUND.origins["as_of"] >= "2018-07-01"] = np.nan
    write_report(replace(FOUND, paths=paths), tmp_path, "Some")
    rows = [row for row in _Page(tmp_path / "backtest.html").rows if row[0] == name]
    assert [row[1] for row in rows] == ["108"] * 3  # 18 days before July
    assert "nan" not in "".join(map(str, rows))


@pytest.mark.parametrize("days", [1, 4])
def test_a_short_walk_of_one_sector_and_one_quarter(tmp_path: Path, days: int) -> None:
    found = forecasts(days, ("Energy",))
    write_report(found, tmp_path, "Short")
    page = _Page(tmp_path / "backtest.html")
    assert f"{days} day{'s' * (days > 1)} to forecast from" in page.text
    assert pd.read_csv(tmp_path / "by_sector.csv")["sector"].unique().tolist() == ["Energy"]
    assert pd.read_csv(tmp_path / "by_quarter.csv")["quarter"].unique().tolist() == ["2018Q1"]
    assert "nan" not in page.text
    assert ("± -" in page.text) == (days == 1)  # of one day there is no standard error


def test_a_walk_in_which_naive_was_always_champion(tmp_path: Path) -> None:
    zeros = np.zeros_like(FOUND.actual)
    found = replace(
        FOUND, paths={NAIVE: zeros, CHAMPION: zeros}, champions={date(2018, 3, 1): NAIVE}
    )
    write_report(found, tmp_path, "Naive")
    page = _Page(tmp_path / "backtest.html")
    assert page.rows[-1] == ["2018-03-01", "1", NAIVE]
    assert f"{CHAMPION}: {', '.join(['1.0000'] * H)}" in page.values("img", "alt")[1]
