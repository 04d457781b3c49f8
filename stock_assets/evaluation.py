"""Measures of forecast errors; every error is a log return, (n_origins, horizons)."""

import math

import numpy as np
from scipy.stats import t as student_t

from stock_assets.features import FloatArray


def mae(errors: FloatArray) -> float:
    """Mean absolute error."""
    return float(np.abs(errors).mean())


def rmse(errors: FloatArray) -> float:
    """Root mean squared error."""
    return math.sqrt(float(np.square(errors).mean()))


def coverage(errors: FloatArray, half_widths: FloatArray) -> float:
    """Share of errors that lie inside intervals of these half-widths, 0..1."""
    return float((np.abs(errors) <= half_widths).mean())


def conformal_quantile(scores: FloatArray, level: int) -> FloatArray:
    """The score that covers ``level`` percent of the next ones, for each horizon.

    The ceil((n + 1) * level / 100)-th smallest of n scores (split conformal prediction, Lei et
    al. 2018, with its finite-sample correction); the largest where n is too small for the level.

    Args:
        scores: (n, horizons), 0 or more.
        level: Percent, 1..99.

    Returns:
        (horizons,)
    """
    n = len(scores)
    rank = min(math.ceil((n + 1) * level / 100), n)
    return np.asarray(np.sort(scores, axis=0)[rank - 1])


def p_value_of_gain(errors: FloatArray, baseline: FloatArray, block: int) -> float:
    """How likely it is to look this much better than a baseline without being better, 0..1.

    The one-sided test of Diebold and Mariano (1995) on absolute errors, by batch means: errors of
    origins closer than a horizon share days, so the gains are averaged over blocks of origins
    first, and the block means are compared with Student's distribution.

    Args:
        errors: (n, horizons) of the forecast.
        baseline: (n, horizons) of the baseline at the same origins.
        block: Origins in a block, at least the longest horizon; n holds two blocks or more.
    """
    gains = (np.abs(baseline) - np.abs(errors)).mean(axis=1)
    means = np.array([part.mean() for part in np.array_split(gains, len(gains) // block)])
    standard_error = means.std(ddof=1) / math.sqrt(len(means))
    if standard_error == 0:
        return 0.0 if means[0] > 0 else 1.0
    return float(student_t.sf(means.mean() / standard_error, df=len(means) - 1))
