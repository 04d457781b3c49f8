"""How wide forecast intervals must be, followed day by day over all tickers together.

A width is in units of a ticker's volatility times the square root of the days ahead. Closes that
turn out to lie outside make the next widths larger, closes inside make them smaller, so that in the
long run as many lie outside as was said, whatever the market does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from stock_assets.features import FloatArray
from stock_assets.models import HORIZONS, H

LEVELS = (80, 95)  # percent
Days = npt.NDArray[np.datetime64]

# All chosen on 2015 to 2017: the widths as split-conformal quantiles of 503 tickers, the others for
# the least error of coverage by quarter with intervals no worse, by Winkler's score, than Gaussian.
PRIOR_WIDTHS = np.stack([1.22 - 0.10 / HORIZONS, 2.14 - 0.13 / HORIZONS])
STEP = 0.3  # of the logarithm of a width, for h = 1; a h-th of it where news is h days old
STORM_GAIN = 0.3  # weight of the newest day in how stormy it is
STORM_POWER = 0.75  # how much of a storm widens the intervals at once
CALM = 0.74  # mean size of a day's return in units of volatility, when nothing happens
LARGEST_MOVE = 4.0  # in the same units: a split of one ticker is no storm
LEAST = 0.25  # of a width and of a storm, even where nothing moves
FEW_TICKERS = 10  # that many move the widths half as fast as very many


@dataclass(frozen=True)
class Widths:
    """Half-widths of intervals by day.

    Attributes:
        days: (n,) ascending, datetime64[D].
        values: (n, levels, 10); times volatility * sqrt(h) a half-width, as a log return.
    """

    days: Days
    values: FloatArray

    def on(self, days: Iterable[object]) -> FloatArray:
        """(n, levels, 10) widths as they were known at the end of each day."""
        wanted = np.asarray(days, dtype="datetime64[D]")
        at = np.searchsorted(self.days, wanted, side="right")
        return np.concatenate([PRIOR_WIDTHS[None], self.values])[at]

    def to_frame(self) -> pd.DataFrame:
        """One row per day and horizon: date, h, width_80, width_95."""
        days = {"date": np.repeat(self.days, H), "h": np.tile(HORIZONS, len(self.days))}
        by_level = zip(LEVELS, self.values.swapaxes(0, 1), strict=True)
        return pd.DataFrame(days | {f"width_{level}": told.ravel() for level, told in by_level})

    @classmethod
    def from_frame(cls, rows: pd.DataFrame) -> Self:
        """What `to_frame` gives, ascending by date and h."""
        values = rows[[f"width_{level}" for level in LEVELS]].to_numpy(np.float64)
        days = rows["date"].to_numpy("datetime64[D]")[::H]
        return cls(days, values.reshape(-1, H, len(LEVELS)).swapaxes(1, 2))


def interval_widths(features: pd.DataFrame) -> Widths:
    """Replay the history of all tickers, from `PRIOR_WIDTHS` on.

    Each width follows the share of closes outside it (the quantile tracker of Angelopoulos,
    Candes and Tibshirani 2023, conformal PID control, on Gibbs and Candes 2021), once for every
    horizon, as the outcomes become known. News of h days ahead is h days old; so that a storm
    is felt at once, the newest returns of all tickers, in units of their volatility, widen all.

    Args:
        features: Columns ticker, date, close and volatility; of any tickers, in any order.
    """
    days, day_number = np.unique(features["date"].to_numpy("datetime64[D]"), return_inverse=True)
    ticker_number, tickers = pd.factorize(features["ticker"])
    n = len(days)
    path, sigma = np.full((2, n, len(tickers)), np.nan)
    path[day_number, ticker_number] = np.log(features["close"])
    sigma[day_number, ticker_number] = features["volatility"]
    storm = _storm(path, sigma) ** STORM_POWER
    widths = np.empty((n, len(LEVELS), H))
    log_width, least = np.log(PRIOR_WIDTHS), np.log(LEAST * PRIOR_WIDTHS)
    outside = 1 - np.array(LEVELS)[:, None] / 100
    for day in range(n):
        back = HORIZONS[day >= HORIZONS]
        origin, h = day - back, back - 1
        moved = np.abs(path[day] - path[origin])
        bounds = widths[origin, :, h].T[:, :, None] * sigma[origin] * np.sqrt(back)[:, None]
        known = np.isfinite(moved).sum(axis=1)
        missed = (moved > bounds).sum(axis=2) / np.maximum(known, 1)
        step = STEP / back * known / (known + FEW_TICKERS)
        log_width[:, h] += step * (missed - outside)
        log_width = np.maximum(log_width, least)
        widths[day] = np.maximum.accumulate(np.exp(log_width)) * storm[day]
    return Widths(days, widths)


def _storm(path: FloatArray, sigma: FloatArray) -> FloatArray:
    """(n,) how large returns of all tickers are of late, against their volatility; 1 in calm."""
    moves = np.minimum(np.abs(np.diff(path, axis=0)) / sigma[:-1], LARGEST_MOVE)
    known = np.isfinite(moves).sum(axis=1)
    mean = np.nansum(moves, axis=1) / np.maximum(known, 1)
    gain = STORM_GAIN * known / (known + FEW_TICKERS)
    storm = np.full(len(path), CALM)
    for day in range(1, len(path)):
        storm[day] = storm[day - 1] + gain[day - 1] * (mean[day - 1] - storm[day - 1])
    return np.maximum(storm / CALM, LEAST)
