"""The pictures: their places follow the numbers, whatever the numbers are."""

import base64
import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stock_assets.charts import HISTORY, Days, forecast_svg, rolling_svg
from stock_assets.defs.display import forecast_chart, rolling_chart
from stock_assets.features import FloatArray

SVG = "{http://www.w3.org/2000/svg}"
INK, RED, LIGHT, MIDDLE = "#24303c", "#c0392b", "#d6e6f4", "#9fc5e8"
BOTTOM = 2900  # of the lower axis
Forecast = tuple[Days, FloatArray, Days, Mapping[str, FloatArray]]


def forecast(closes: FloatArray, last: str = "2026-02-20", width: float = 0.02) -> Forecast:
    days = np.busday_offset(last, np.arange(1 - len(closes), 1), roll="backward")
    h = np.arange(1, 11)
    spread = width * np.sqrt(h)
    path = {"close": closes[-1] * np.exp(0.001 * h)}
    for level, times in ((80, 1.3), (95, 2.0)):
        path[f"lo_{level}"] = path["close"] * np.exp(-times * spread)
        path[f"hi_{level}"] = path["close"] * np.exp(times * spread)
    return days, closes, np.busday_offset(last, h, roll="backward"), path


def walk(n: int) -> FloatArray:
    closes: FloatArray = 100 * np.exp(np.random.default_rng(0).normal(0, 0.02, n).cumsum())
    return closes


def rolling(**columns: list[float]) -> pd.DataFrame:
    days = pd.bdate_range("2025-12-22", periods=len(columns["mae_ratio"]))
    return pd.DataFrame(columns, index=pd.Index(days.date, name="as_of"))


class Picture:
    """A picture's texts and paths; it is XML and all of it lies inside the frame."""

    def __init__(self, svg: str) -> None:
        self.root = ET.fromstring(svg)  # noqa: S314  our own
        assert self.root.tag == f"{SVG}svg"
        _, _, width, height = map(int, self.root.attrib["viewBox"].split())
        for x, y in (place for path in self.root.iter(f"{SVG}path") for place in places(path)):
            assert 0 <= x <= width
            assert 0 <= y <= height

    def lines(self, colour: str) -> list[list[tuple[int, int]]]:
        """The curves and bands of a colour, without dots and levels."""
        return [
            places(path)
            for path in self.root.iter(f"{SVG}path")
            if (path.get("stroke") == colour and not path.get("class"))
            or path.get("style") == f"fill:{colour}"
        ]

    def texts(self, kind: str | None = None) -> dict[str, tuple[int, int]]:
        """Where the texts of a kind stand, by what they say; of none, the values and legends."""
        return {
            "".join(text.itertext()): (int(text.attrib["x"]), int(text.attrib["y"]))
            for text in self.root.iter(f"{SVG}text")
            if text.get("class") == kind
        }

    def values(self) -> dict[float, int]:
        """The heights of the values that are named beside the axes."""
        return {
            float(label.replace(",", "")): y - 38
            for label, (x, y) in self.texts().items()
            if x < 3000
        }

    def dates(self) -> list[str]:
        """The dates that the lower axis names."""
        return [label for label, (_, y) in self.texts("date").items() if y > BOTTOM]


def places(path: ET.Element) -> list[tuple[int, int]]:
    """The corners of a path of relative steps, or the ends of straight lines."""
    steps = path.attrib["d"]
    numbers = np.array(re.findall(r"-?\d+", steps.removesuffix("h0")), int)
    if steps.startswith("m"):
        return [(int(x), int(y)) for x, y in numbers.reshape(-1, 2).cumsum(axis=0)]
    return [(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)", steps)]


def test_the_last_closes_are_drawn_in_proportion() -> None:
    days, closes, targets, path = forecast(walk(300))
    (line,) = Picture(forecast_svg("AAPL", days, closes, targets, path)).lines(INK)
    x, y = np.array(line).T
    assert len(line) == HISTORY
    dates = days[-HISTORY:].astype(float)
    for shown, of, direction in ((x, dates, 1), (y, closes[-HISTORY:], -1)):
        scale, offset = np.polyfit(of, shown, 1)
        assert shown == pytest.approx(scale * of + offset, abs=0.6)  # they are whole numbers
        assert scale * direction > 0


def test_the_fan_opens_from_the_last_close_and_the_wide_one_holds_the_narrow_one() -> None:
    picture = Picture(forecast_svg("AAPL", *forecast(walk(50))))
    (closes,), (path,) = picture.lines(INK), picture.lines(RED)
    (narrow,), (wide,) = picture.lines(MIDDLE), picture.lines(LIGHT)
    assert closes[-1] == path[0] == wide[0] == wide[-1] == narrow[0] == narrow[-1]
    assert [x for x, _ in wide[:11]] == [x for x, _ in wide[:10:-1]] == [x for x, _ in path]
    heights = np.array([wide[:11], narrow[:11], path, narrow[:10:-1], wide[:10:-1]])[:, 1:, 1]
    assert (np.diff(heights, axis=0) > 0).all()  # heights are counted from the top
    assert (np.diff(heights[-1] - heights[0]) > 0).all()


def test_values_are_labelled_where_they_are() -> None:
    days, closes, targets, path = forecast(walk(60))
    picture = Picture(forecast_svg("AAPL", days, closes, targets, path))
    (line,) = picture.lines(INK)
    values = picture.values()
    scale, offset = np.polyfit(closes, [y for _, y in line], 1)
    assert [scale * value + offset for value in values] == pytest.approx(
        list(values.values()), abs=1.5
    )
    assert list(values) == [90, 95, 100, 105, 110, 115, 120, 125]


@pytest.mark.parametrize(
    ("n", "last", "labels"),
    [
        (1, "2025-12-19", ["22 Dec 2025", "29 Dec"]),
        (20, "2025-12-31", ["8 Dec 2025", "15 Dec", "22 Dec", "29 Dec", "5 Jan 2026", "12 Jan"]),
        (100, "2025-12-31", ["Sep 2025", "Oct", "Nov", "Dec", "Jan 2026"]),
        (93, "2025-12-09", ["Aug 2025", "Sep", "Oct", "Nov", "Dec"]),  # from the first of August
    ],
)
def test_dates_are_mondays_or_months_with_the_year_where_it_is_new(
    n: int, last: str, labels: list[str]
) -> None:
    assert Picture(forecast_svg("AAPL", *forecast(walk(n), last))).dates() == labels


def test_years_without_prices_are_labelled_with_few_dates() -> None:
    days, closes, targets, path = forecast(walk(100))
    days[:50] -= np.timedelta64(20 * 365, "D")
    picture = Picture(forecast_svg("AAPL", days, closes, targets, path))
    assert picture.dates() == [f"Jan {year}" for year in (2010, 2015, 2020, 2025)]


def test_a_picture_is_told_in_words_and_a_title_is_text() -> None:
    root = Picture(forecast_svg("A<B>&\"C'", *forecast(walk(3)))).root
    assert root.attrib["role"] == "img"
    assert root.findtext(f"{SVG}title") == "A<B>&\"C': forecast of the next 10 closes"
    assert root.findtext(f"{SVG}text") == "A<B>&\"C': the next 10 trading days"


@pytest.mark.parametrize("price", [0, 1e-4, 50, 1e6])
def test_a_flat_price_is_a_straight_line_through_the_middle(price: float) -> None:
    days, closes, targets, path = forecast(np.full(100, float(price)))
    flat = dict.fromkeys(path, closes[-10:])
    picture = Picture(forecast_svg("FLAT", days, closes, targets, flat))
    (line,), values = picture.lines(INK), picture.values()
    assert {y for _, y in line} == {values[price]}
    assert len(values) >= 3
    assert all(abs(value - price) <= (price / 1000 or 1) for value in values)


@given(
    closes=st.lists(st.floats(1e-4, 1e7), min_size=1, max_size=120),
    width=st.sampled_from([0.0, 1e-6, 0.02, 1.0]),
    last=st.dates(pd.Timestamp("1990-01-01").date(), pd.Timestamp("2100-01-01").date()),
)
def test_any_prices_are_drawn_inside_the_frame_with_round_labels(
    closes: list[float], width: float, last: object
) -> None:
    picture = Picture(forecast_svg("ANY", *forecast(np.array(closes), str(last), width)))
    values = picture.values()
    step = np.diff(list(values))
    assert 3 <= len(values) <= 9
    assert step == pytest.approx(np.full(len(step), step[0]), rel=1e-6)
    assert f"{step[0]:.0e}"[0] in "125"
    assert step[0] == pytest.approx(float(f"{step[0]:.0e}"), rel=1e-6)
    assert list(values.values()) == sorted(values.values(), reverse=True)
    assert all(480 <= height <= BOTTOM for height in values.values())
    labels = {label: x for label, (x, _) in picture.texts().items() if x < 3000}
    assert all(64 * len(label) < x < picture.lines(INK)[0][0][0] for label, x in labels.items())
    assert 1 <= len(picture.dates()) <= 7


@given(st.lists(st.tuples(*[st.floats(0, 1) | st.just(np.nan)] * 3), min_size=1, max_size=70))
def test_any_scores_are_drawn_inside_the_frame(rows: list[tuple[float, ...]]) -> None:
    errors, narrow, wide = map(list, zip(*rows, strict=True))
    picture = Picture(rolling_svg(rolling(mae_ratio=errors, coverage_80=narrow, coverage_95=wide)))
    for colour, scores in ((RED, errors), (MIDDLE, narrow), ("#1f4e79", wide)):
        drawn = picture.lines(colour)
        assert sum(map(len, drawn)) == np.isfinite(scores).sum()


def test_scores_are_drawn_where_their_axes_say() -> None:
    picture = Picture(
        rolling_svg(rolling(mae_ratio=[1, 2], coverage_80=[0, 0.5], coverage_95=[0.5, 1]))
    )
    heights = picture.values()
    assert [y for _, y in picture.lines(MIDDLE)[0]] == [heights[0], heights[50]]
    assert [y for _, y in picture.lines("#1f4e79")[0]] == [heights[50], heights[100]]
    (errors,) = picture.lines(RED)
    assert errors[0][1] > errors[1][1]
    assert max(y for _, y in errors) < heights[100]


def test_a_picture_of_a_ticker_is_small() -> None:
    markdown = forecast_chart("AAPL", *forecast(walk(300))).value
    assert len(str(markdown)) < 4096


def test_dagster_shows_pictures_as_markdown() -> None:
    scores = pd.DataFrame(
        {
            "as_of": pd.to_datetime(["2026-01-02", "2026-01-02", "2026-01-05"]).date,
            "h": [1, 2, 1],
            "mae_ratio": [0.8, 1.0, 1.1],
            "coverage_80": [0.7, 0.9, 1],
            "coverage_95": [0.9, 1.0, 1],
        }
    )
    for shown, words in (
        (forecast_chart("AAPL", *forecast(walk(9))), "AAPL: forecast of the next 10 closes"),
        (rolling_chart(scores), "Rolling error and coverage of the forecasts that were shown"),
    ):
        description, _, data = str(shown.value).partition("](data:image/svg+xml;base64,")
        svg = base64.b64decode(data.removesuffix(")"), validate=True).decode()
        assert description == f"![{words}"
        assert Picture(svg).root.findtext(f"{SVG}title") == words
