"""Features of daily prices: unit-free, strictly causal, all tickers at once.

A row of day t uses days up to t of its own ticker and nothing else. Every feature stays the same
when prices are quoted in another currency or volumes in another lot size.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

LAGS = 5
FEATURES = (
    "log_return",  # close against the close before
    "volume_change",  # (v - v_before) / (v + v_before), in -1..1; 0 where both are 0
    "high_low",  # log of high / low
    "close_open",  # log of close / open
    *(f"log_return_lag_{lag}" for lag in range(1, LAGS + 1)),
)
WARM_UP = LAGS + 1  # first days of a ticker whose features are incomplete

PRIOR_VOLATILITY = 0.016  # daily, of a typical large share; worth three days of returns
PRIOR_DAYS = 3
VOLATILITY_GAIN = 0.03  # weight of the newest squared return (RiskMetrics' decay of 0.97)
LEAST_VOLATILITY = 1e-4  # of a price that does not move: no interval is without width


def price_features(prices: pd.DataFrame) -> pd.DataFrame:
    """The feature table of any number of tickers.

    Args:
        prices: Columns ticker, date, close, open, low, high, volume; ascending by ticker and date.

    Returns:
        One row per row of prices: ticker, date, close, `FEATURES` (missing on the first
        `WARM_UP` days of a ticker), and volatility, the daily one as known on that day.
    """
    same_ticker = _same_ticker(prices["ticker"])
    close, opened, low, high = (
        np.log(prices[name].to_numpy()) for name in ("close", "open", "low", "high")
    )
    volume = prices["volume"].to_numpy(np.float64)
    log_return = close - _shift(close, same_ticker)
    columns = {
        "log_return": log_return,
        "volume_change": _relative_change(volume, _shift(volume, same_ticker)),
        "high_low": high - low,
        "close_open": close - opened,
    }
    lagged = log_return
    for lag in range(1, LAGS + 1):
        lagged = _shift(lagged, same_ticker)
        columns[f"log_return_lag_{lag}"] = lagged
    features = pd.DataFrame(columns, columns=list(FEATURES))
    features[np.isnan(lagged)] = np.nan
    return pd.concat(
        [
            prices[["ticker", "date", "close"]].reset_index(drop=True),
            features,
            pd.Series(_volatility(log_return, same_ticker), name="volatility"),
        ],
        axis=1,
    )


def ticker_spans(ticker: "pd.Series[str]") -> Rows:
    """(m, 2) first row of each ticker, and the one after its last."""
    starts = np.flatnonzero(~_same_ticker(ticker))
    return np.column_stack([starts, np.append(starts[1:], len(ticker))[: len(starts)]])


def spans_rows(spans: Rows) -> Rows:
    """The rows of all spans, one after the other."""
    return np.concatenate([np.arange(0), *(np.arange(first, end) for first, end in spans)])


def _same_ticker(ticker: "pd.Series[str]") -> npt.NDArray[np.bool_]:
    """Whether the row before belongs to the same ticker."""
    values = ticker.to_numpy()
    return np.concatenate([[False], values[1:] == values[:-1]])[: len(values)]


def _shift(values: FloatArray, same_ticker: npt.NDArray[np.bool_]) -> FloatArray:
    """The value of the day before, missing on a ticker's first day."""
    before = np.concatenate([[np.nan], values[:-1]])[: len(values)]
    return np.where(same_ticker, before, np.nan)


def _relative_change(now: FloatArray, before: FloatArray) -> FloatArray:
    total = now + before
    return np.divide(
        now - before, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0
    )


def _volatility(log_return: FloatArray, same_ticker: npt.NDArray[np.bool_]) -> FloatArray:
    """Exponentially weighted volatility (RiskMetrics 1996) that starts from a prior.

    v[t] = v[t-1] + gain * (r[t]**2 - v[t-1]), with a gain of 1 / (PRIOR_DAYS + t) until that
    falls to `VOLATILITY_GAIN`: a mean of the days so far at first, then a fading one. So one day
    of history is enough, and the prior is gone after a month.
    """
    starts = np.flatnonzero(~same_ticker)
    lengths = np.diff([*starts, len(log_return)])
    days = np.arange(max(lengths, default=0))
    inside = days < lengths[:, None]
    squares = np.zeros(inside.shape)
    squares[inside] = np.where(same_ticker, log_return, 0.0) ** 2
    variance = np.empty(inside.shape)
    variance[:, :1] = PRIOR_VOLATILITY**2
    for day in days[1:]:
        gain = max(VOLATILITY_GAIN, 1 / (PRIOR_DAYS + day))
        before = variance[:, day - 1]
        variance[:, day] = before + gain * (squares[:, day] - before)
    return np.maximum(np.sqrt(variance[inside]), LEAST_VOLATILITY)
