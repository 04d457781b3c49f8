"""Pictures as SVG text: small, crisp at any size, and drawn in a fraction of a millisecond.

Lengths are tenths of a pixel of a picture of 640 x 320, so that whole numbers place everything.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from html import escape

import numpy as np
import numpy.typing as npt
import pandas as pd

from stock_assets.features import FloatArray

HISTORY = 100  # days of closes that are shown before the forecast

_INK, _MUTED, _AXIS, _GRID = "#24303c", "#5b6874", "#b8c0c8", "#e9edf0"
_RED, _LIGHT, _MIDDLE, _DARK = "#c0392b", "#d6e6f4", "#9fc5e8", "#1f4e79"
_LINE, _AREA = "\u2501", "\u25a0"  # signs of a legend
_MARGIN, _RIGHT, _DIGIT = 160, 6100, 64  # _DIGIT: the width of a digit beside an axis
_DATES = 6  # below an axis at most, or one more
_DAY_STEPS, _MONTH_STEPS = (1, 2, 7, 14), (1, 2, 3, 6, 12, 24, 60, 120)
_EPOCH, _MONDAY = date(1970, 1, 1).toordinal(), 4
_STYLE = (
    "path{fill:none;stroke-width:15;stroke-linecap:round;stroke-linejoin:round}"
    f".grid{{stroke:{_GRID};stroke-width:10}}.axis{{stroke:{_AXIS};stroke-width:10}}"
    ".level{stroke-width:10;stroke-dasharray:40 30}.dot{stroke-width:50}"
    f"text{{font:110px system-ui,sans-serif;fill:{_MUTED};text-anchor:end}}"
    f".title{{font-size:130px;font-weight:600;fill:{_INK};text-anchor:start}}"
    ".date{text-anchor:middle}"
)

Days = npt.NDArray[np.datetime64]
_Numbers = npt.NDArray[np.int64]


def forecast_svg(
    ticker: str,
    days: Days,
    closes: FloatArray,
    target_days: Days,
    path: Mapping[str, FloatArray],
) -> str:
    """A ticker's last closes, the forecast path and its intervals.

    Args:
        ticker: Named in the title.
        days: (n,) ascending, at least one; the last `HISTORY` are shown.
        closes: (n,) finite.
        target_days: (h,) ascending, after the last day.
        path: close, lo_80, hi_80, lo_95 and hi_95, each (h,) and finite.
    """
    known, shown = _numbers(days[-HISTORY:]), closes[-HISTORY:]
    ahead = np.append(known[-1], _numbers(target_days))  # the fan opens from the last close
    fan = {name: np.append(shown[-1], values) for name, values in path.items()}
    panel = _Panel.around(known[0], ahead[-1], np.concatenate([shown, *fan.values()]), top=480)
    return _svg(
        f"{ticker}: forecast of the next {len(target_days)} closes",
        _heading(
            280,
            f"{ticker}: the next {len(target_days)} trading days",
            [
                (_INK, _LINE, "close"),
                (_RED, _LINE, "forecast"),
                (_MIDDLE, _AREA, "80 %"),
                (_LIGHT, _AREA, "95 %"),
            ],
        ),
        panel.axes(),
        panel.band(ahead, fan["lo_95"], fan["hi_95"], _LIGHT),
        panel.band(ahead, fan["lo_80"], fan["hi_80"], _MIDDLE),
        panel.line(ahead, fan["close"], _RED),
        panel.line(known, shown, _INK),
    )


def rolling_svg(by_day: pd.DataFrame) -> str:
    """How the forecasts that were shown have done, by the day they were made on.

    Args:
        by_day: mae_ratio, coverage_80 and coverage_95, shares, NaN where unknown; index as_of,
            ascending, at least one day.
    """
    days = _numbers(pd.to_datetime(by_day.index).to_numpy())
    errors = by_day["mae_ratio"].to_numpy(np.float64)
    inside = {level: 100 * by_day[f"coverage_{level}"].to_numpy(np.float64) for level in (80, 95)}
    around_one = np.append(errors[np.isfinite(errors)], 1)
    upper = _Panel.around(days[0], days[-1], around_one, top=460, bottom=1340)
    lower = _Panel.around(days[0], days[-1], np.array([0, 100]), top=2020)
    return _svg(
        "Rolling error and coverage of the forecasts that were shown",
        _heading(280, "Error of the forecasts shown / naive"),
        upper.axes(),
        upper.level(1, _MUTED),
        upper.line(days, errors, _RED),
        _heading(
            1840,
            "Closes inside the intervals, %",
            [(_MIDDLE, _LINE, "80 %"), (_DARK, _LINE, "95 %")],
        ),
        lower.axes(),
        lower.level(80, _MIDDLE),
        lower.level(95, _DARK),
        lower.line(days, inside[80], _MIDDLE),
        lower.line(days, inside[95], _DARK),
    )


@dataclass(frozen=True, slots=True)
class _Panel:
    """A box of the picture, with the days and the values at its edges."""

    first: int
    last: int
    low: float
    high: float
    left: int
    top: int
    bottom: int
    ticks: dict[str, float]

    @classmethod
    def around(
        cls, first: int, last: int, values: FloatArray, *, top: int, bottom: int = 2900
    ) -> "_Panel":
        """With room for the values and their labels, and not so near that noise looks wild."""
        low, high = float(values.min()), float(values.max())
        middle = (low + high) / 2
        half = max(0.53 * (high - low), 0.001 * abs(middle)) or 1
        ticks = _round_values(middle - half, middle + half, most=(bottom - top) // 280)
        left = _MARGIN + 80 + _DIGIT * max(4, *map(len, ticks))
        alone = int(first == last)
        edges = int(first) - alone, int(last) + alone, middle - half, middle + half
        return cls(*edges, left, top, bottom, ticks)

    def axes(self) -> str:
        """Lines and labels of the values, and the dates."""
        days = _round_days(self.first, self.last)
        heights = self._y(np.array([*self.ticks.values()])).tolist()
        dates = dict(zip(days, self._x(np.array([*days.values()])).tolist(), strict=True))
        levels = dict(zip(self.ticks, heights, strict=True))
        grid = "".join(f"M{self.left} {y}H{_RIGHT}" for y in levels.values())
        marks = "".join(f"M{x} {self.bottom}v40" for x in dates.values())
        return (
            f'<path class="grid" d="{grid}"/>'
            f'<path class="axis" d="M{self.left} {self.bottom}H{_RIGHT}{marks}"/>'
            + "".join(_text(self.left - 80, y + 38, label) for label, y in levels.items())
            + "".join(_text(x, self.bottom + 170, label, "date") for label, x in dates.items())
        )

    def level(self, value: float, colour: str) -> str:
        """A value to compare with."""
        (y,) = self._y(np.array([value])).tolist()
        return f'<path class="level" d="M{self.left} {y}H{_RIGHT}" stroke="{colour}"/>'

    def line(self, days: _Numbers, values: FloatArray, colour: str) -> str:
        """What is known of the values, with a dot at the newest."""
        known = np.isfinite(values)
        if not known.any():
            return ""
        places = self._places(days[known], values[known])
        return (
            f'<path d="{_path(places)}" stroke="{colour}"/>'
            f'<path d="{_path(places[-1:])}h0" class="dot" stroke="{colour}"/>'
        )

    def band(self, days: _Numbers, low: FloatArray, high: FloatArray, colour: str) -> str:
        """The area between two lines."""
        there, back = self._places(days, high), self._places(days, low)[::-1]
        return f'<path d="{_path(np.concatenate([there, back]))}z" style="fill:{colour}"/>'

    def _places(self, days: _Numbers, values: FloatArray) -> _Numbers:
        return np.column_stack([self._x(days), self._y(values)])

    def _x(self, days: _Numbers) -> _Numbers:
        scale = (_RIGHT - self.left) / (self.last - self.first)
        return _rounded(self.left + (days - self.first) * scale)

    def _y(self, values: FloatArray) -> _Numbers:
        scale = (self.bottom - self.top) / (self.high - self.low)
        return _rounded(self.bottom - (values - self.low) * scale)


def _rounded(values: npt.NDArray[np.floating]) -> _Numbers:
    whole: _Numbers = np.rint(values).astype(np.int64)
    return whole


def _numbers(days: Days) -> _Numbers:
    return days.astype("datetime64[D]").astype(np.int64)


def _path(places: _Numbers) -> str:
    """From a place to the next by their difference, which is shorter than where they are."""
    steps = places.copy()
    steps[1:] -= places[:-1]
    return "m" + " ".join(map(str, steps.ravel().tolist())).replace(" -", "-")


def _round_values(low: float, high: float, most: int) -> dict[str, float]:
    """Multiples of 1, 2 or 5 times a power of ten, by their labels."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)
    digits = max(0, -math.floor(math.log10(step)))
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {f"{tick:,.{digits}f}": tick for tick in ticks}


def _round_days(first: int, last: int) -> dict[str, int]:
    """Mondays or first days of months by their labels, which tell the year where it is new."""
    step = next((step for step in _DAY_STEPS if last - first <= _DATES * step), None)
    days = range(first + (_MONDAY - first) % step, last + 1, step) if step else _months(first, last)
    ticks, year = {}, 0
    for number in days:
        day = date.fromordinal(_EPOCH + number)
        label = f"{day.day} {day:%b}" if step else f"{day:%b}"
        ticks[label if day.year == year else f"{label} {day.year}"] = number
        year = day.year
    return ticks


def _months(first: int, last: int) -> Iterator[int]:
    start, end = (date.fromordinal(_EPOCH + day) for day in (first - 1, last))
    span = (last - first) / 30.5
    step = next((step for step in _MONTH_STEPS if span <= _DATES * step), _MONTH_STEPS[-1])
    after = 12 * start.year + start.month  # months since year 0, of the first whole one
    for month in range(after + -after % step, 12 * end.year + end.month, step):
        yield date(month // 12, month % 12 + 1, 1).toordinal() - _EPOCH


def _heading(y: int, title: str, legend: Iterable[tuple[str, str, str]] = ()) -> str:
    signs = "".join(
        f'<tspan dx="110" fill="{colour}">{sign}</tspan> {name}' for colour, sign, name in legend
    )
    return _text(_MARGIN, y, escape(title), "title") + _text(_RIGHT, y, signs)


def _text(x: int, y: int, content: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text{of_kind} x="{x}" y="{y}">{content}</text>'


def _svg(description: str, *parts: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" width="640" height="320" '
        f'viewBox="0 0 6400 3200"><title>{escape(description)}</title><style>{_STYLE}</style>'
        f'<rect width="6400" height="3200" fill="#fff"/>{"".join(parts)}</svg>'
    )
