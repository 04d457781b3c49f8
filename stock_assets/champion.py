"""Which model's forecasts people are shown: one for all tickers, by evidence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stock_assets.evaluation import p_value_of_mean
from stock_assets.features import FloatArray
from stock_assets.models import NAIVE

# Of the test. Fortnights in a row share some days, so the chance that some model is promoted which
# is no better than naive is up to twice as large (simulated with random walks of 60 to 500 days).
SIGNIFICANCE = 0.05
LIVE_DAYS = 60  # of trading, whose scores in production count
MIN_LIVE_DAYS = 20  # fewer say nothing

Gains = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class LiveRecord:
    """How a model did in production of late.

    Attributes:
        days: On which it forecast, with the outcome known.
        mae_ratio: Its mean absolute error divided by that of the naive forecast.
    """

    days: int
    mae_ratio: float


@dataclass(frozen=True)
class Decision:
    """A champion, and why.

    Attributes:
        champion: Its key in `models.MODELS`.
        reason: One sentence.
        p_values: Of each challenger: how likely its backtests are if it is no better than naive.
        gains: Of each challenger: how much nearer to the close than naive, log return.
    """

    champion: str
    reason: str
    p_values: dict[str, float]
    gains: dict[str, float]


def choose_champion(
    backtests: Mapping[str, Iterable[Gains]], live: Mapping[str, LiveRecord] | None = None
) -> Decision:
    """The challenger that gained most on naive, among those that beat it beyond noise; else naive.

    Gains are averaged over all tickers first, as these rise and fall together, then over
    fortnights, as forecasts of the same days overlap. The means of fortnights are tested, each
    challenger at `SIGNIFICANCE` divided by their number. One that is behind naive in production,
    over the last `LIVE_DAYS` days, is not promoted, or steps down.

    One champion per ticker was no better in 2016 and 2017 (500 tickers): of so little evidence it
    found somebody to promote at every origin.

    Args:
        backtests: The gains of each model's backtests, one mapping a ticker; see `Backtest.gains`.
        live: What is known of them in production.
    """
    means = {m: _by_fortnight(gains) for m, gains in backtests.items() if m != NAIVE}
    p_values = {name: p_value_of_mean(values) for name, values in means.items()}
    gains = {name: float(values.mean()) if len(values) else 0.0 for name, values in means.items()}
    needed = SIGNIFICANCE / max(len(means), 1)
    behind = {
        name: record
        for name, record in (live or {}).items()
        if record.days >= MIN_LIVE_DAYS and record.mae_ratio > 1
    }
    better = [name for name, p_value in p_values.items() if p_value < needed]
    champion = max((n for n in better if n not in behind), key=lambda n: gains[n], default=NAIVE)
    return Decision(champion, _reason(champion, p_values, needed, better, behind), p_values, gains)


def _by_fortnight(backtests: Iterable[Gains]) -> FloatArray:
    """Mean gains of successive fortnights over all tickers; those of few origins are left out."""
    sums: dict[int, FloatArray] = {}
    for gains in backtests:
        for fortnight, told in gains.items():
            sums[int(fortnight)] = sums.get(int(fortnight), np.zeros(2)) + told
    if not sums:
        return np.empty(0)
    totals = np.array([sums[fortnight] for fortnight in sorted(sums)])
    full = totals[:, 1] >= np.median(totals[:, 1]) / 2
    return np.asarray(totals[full, 0] / totals[full, 1])


def _reason(
    champion: str,
    p_values: Mapping[str, float],
    needed: float,
    better: Sequence[str],
    behind: Mapping[str, LiveRecord],
) -> str:
    if champion != NAIVE:
        return (
            f"beats naive beyond noise in its backtests: p = {p_values[champion]:.4f} where less "
            f"than {needed:.4f} is needed"
        )
    if better:
        name = better[0]
        return (
            f"{name} won in backtests, but in production its error was "
            f"{behind[name].mae_ratio:.3f} of naive's over {behind[name].days} days"
        )
    if not p_values:
        return "nothing else was backtested"
    nearest = min(p_values, key=lambda name: p_values[name])
    return (
        f"no model beats it beyond noise: {nearest} comes nearest with p = "
        f"{p_values[nearest]:.3f} where less than {needed:.4f} is needed"
    )
