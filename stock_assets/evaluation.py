"""Measures of forecast errors; every error is a log return, (n_origins, horizons)."""

import math

import numpy as np
from scipy.special import stdtr  # Student's distribution function; scipy.stats takes long to load

from stock_assets.features import FloatArray


def mae(errors: FloatArray) -> float:
    """Mean absolute error."""
    return float(np.abs(errors).mean())


def rmse(errors: FloatArray) -> float:
    """Root mean squared error."""
    return math.sqrt(float(np.square(errors).mean()))


def ratio(error: float, baseline: float) -> float:
    """Error against baseline; 1 where the price never moved and both are right."""
    return error / baseline if baseline else 1.0 if error == 0 else np.inf


def coverage(errors: FloatArray, half_widths: FloatArray) -> float:
    """Share of errors that lie inside intervals of these half-widths, 0..1."""
    return float((np.abs(errors) <= half_widths).mean())


def winkler(errors: FloatArray, half_widths: FloatArray, level: int) -> FloatArray:
    """The interval score of each forecast; the less the better.

    The width, and 2 / alpha times what an error lies outside by (Winkler 1972; Gneiting and Raftery
    2007); alpha is the share that may lie outside.

    Args:
        errors: Of any shape.
        half_widths: Of the same shape.
        level: Percent, 1..99.
    """
    outside = np.maximum(np.abs(errors) - half_widths, 0)
    return np.asarray(2 * half_widths + 2 / (1 - level / 100) * outside)


def p_value_of_mean(means: FloatArray) -> float:
    """How likely independent values of this mean, or more, are if the true one is 0.

    Student's one-sided test. Of forecast gains in blocks that are longer than a horizon it is the
    test of Diebold and Mariano (1995), by batch means. 1 for fewer than two values.
    """
    if len(means) < 2 or not means.any():  # noqa: PLR2004
        return 1.0
    standard_error = means.std(ddof=1) / math.sqrt(len(means))
    if standard_error == 0:
        return 0.0 if means[0] > 0 else 1.0
    return float(stdtr(len(means) - 1, -means.mean() / standard_error))


def diebold_mariano(gains: FloatArray, h: int) -> tuple[float, float]:
    """Whether a forecast is better than a baseline, by gains of successive origins.

    The test of Diebold and Mariano (1995) as Harvey, Leybourne and Newbold (1997) corrected it for
    small samples: gains of origins closer than h share days, so their autocovariances up to h - 1
    count. Tickers of the same origin move together: take their mean first.

    Args:
        gains: (n,) loss of the baseline less that of the forecast.
        h: How many origins in a row share days, at least 1.

    Returns:
        The statistic, positive where the forecast is better, and its two-sided p-value; 0 and 1
        where the gains do not vary, or n is below 2 h. Of few origins the p-value is too small: at
        h = 10, of forecasts as good as the baseline, 13 % fall below 0.05 with 60 origins, 7 % with
        250.
    """
    n = len(gains)
    if n < 2 * h or np.ptp(gains) == 0:
        return 0.0, 1.0
    centred = gains - gains.mean()
    gamma = [float(centred[lag:] @ centred[: n - lag]) / n for lag in range(h)]
    variance = gamma[0] + 2 * sum(gamma[1:])
    if variance <= 0:  # the plain sum may be: Bartlett's weights never let it (Newey and West 1987)
        variance = gamma[0] + 2 * sum((1 - k / h) * g for k, g in enumerate(gamma[1:], start=1))
    if variance <= 0:
        return 0.0, 1.0
    small_sample = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    statistic = small_sample * float(gains.mean()) / math.sqrt(variance / n)
    return statistic, 2 * float(stdtr(n - 1, -abs(statistic)))
