"""Measures of errors: by hand, by simulation, and honest about errors that share days."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stock_assets.evaluation import (
    coverage,
    diebold_mariano,
    mae,
    p_value_of_mean,
    ratio,
    rmse,
    winkler,
)
from stock_assets.features import FloatArray

ERRORS = np.array([[1.0, -2.0], [0.0, 5.0]])
H = 10


def overlapping(random: np.random.Generator, n: int, h: int = H) -> FloatArray:
    """Sums of the next h days from each of n days: neighbours share up to h - 1 of them."""
    return np.convolve(random.normal(size=n + h - 1), np.ones(h), "valid")


def test_measures_by_hand() -> None:
    assert mae(ERRORS) == 2
    assert rmse(ERRORS) == math.sqrt(7.5)
    assert coverage(ERRORS, np.array([[1.0, 1.0], [1.0, 1.0]])) == 0.5
    assert coverage(ERRORS, np.array([0.5, 5.0])) == 0.75


@pytest.mark.parametrize(
    ("error", "baseline", "expected"),
    [(1.0, 2.0, 0.5), (3.0, 2.0, 1.5), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0), (1e-9, 0.0, np.inf)],
)
def test_ratios_by_hand(error: float, baseline: float, expected: float) -> None:
    assert ratio(error, baseline) == expected


# The interval score


@pytest.mark.parametrize(
    ("error", "half_width", "level", "expected"),
    [
        (0.5, 1.0, 80, 2.0),  # inside: the width
        (-1.0, 1.0, 80, 2.0),  # just inside
        (1.5, 1.0, 80, 2 + 10 * 0.5),  # outside by 0.5, at 2 / 0.2
        (-1.5, 1.0, 80, 2 + 10 * 0.5),
        (1.5, 1.0, 95, 2 + 40 * 0.5),
        (3.0, 0.0, 50, 4 * 3.0),
    ],
)
def test_winkler_scores_by_hand(
    error: float, half_width: float, level: int, expected: float
) -> None:
    assert winkler(np.array([error]), np.array([half_width]), level) == pytest.approx([expected])


@given(error=st.floats(-5, 5), half_width=st.floats(0, 5), level=st.integers(1, 99))
@settings(deadline=None, max_examples=100)
def test_winkler_scores_follow_the_formula(error: float, half_width: float, level: int) -> None:
    low, high, alpha = -half_width, half_width, 1 - level / 100
    score = high - low
    if error < low:
        score += 2 / alpha * (low - error)
    if error > high:
        score += 2 / alpha * (error - high)
    assert winkler(np.array([error]), np.array([half_width]), level)[0] == pytest.approx(score)


def test_winkler_scores_keep_the_shape() -> None:
    assert winkler(np.zeros((3, 2, H)), np.ones((3, 2, H)), 80).shape == (3, 2, H)


@pytest.mark.parametrize("level", [50, 80, 95])
@pytest.mark.parametrize("distribution", [stats.norm(), stats.t(4), stats.uniform(-1, 2)])
def test_the_true_quantiles_score_best(level: int, distribution: "stats.rv_frozen") -> None:
    errors = distribution.rvs(size=200_000, random_state=0)
    truth = distribution.ppf(0.5 + level / 200)
    candidates = truth * np.array([0.7, 0.85, 0.93, 1.0, 1.07, 1.15, 1.3])
    scores = [winkler(errors, np.full(len(errors), c), level).mean() for c in candidates]
    assert int(np.argmin(scores)) == 3


# The test of a mean


def test_the_p_value_by_hand() -> None:
    # 1, 2 and 6: mean 3, standard error sqrt(7 / 3), t = 1.963961 with two degrees.
    by_hand = 0.5 - 1.963961 / (2 * math.sqrt(2 + 1.963961**2))
    assert p_value_of_mean(np.array([1.0, 2.0, 6.0])) == pytest.approx(by_hand, rel=1e-6)


@given(st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=3, max_size=30))
@settings(deadline=None, max_examples=100)
def test_the_p_value_is_that_of_students_one_sided_test(values: list[float]) -> None:
    means = np.array(values)
    if means.std() > 1e-6:
        expected = stats.ttest_1samp(means, 0, alternative="greater").pvalue
        assert p_value_of_mean(means) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("means", "p_value"),
    [([], 1.0), ([5.0], 1.0), ([0.0] * 9, 1.0), ([2.0] * 9, 0.0), ([-2.0] * 9, 1.0)],
)
def test_p_values_at_the_edges(means: list[float], p_value: float) -> None:
    assert p_value_of_mean(np.array(means)) == p_value


@pytest.mark.parametrize("n", [3, 25])
def test_p_values_are_uniform_where_there_is_no_gain(n: int) -> None:
    random = np.random.default_rng(0)
    p_values = np.array([p_value_of_mean(random.normal(size=n)) for _ in range(2000)])
    for share in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.mean(p_values < share) == pytest.approx(share, abs=0.03)


def test_blocks_as_long_as_a_horizon_keep_overlap_from_looking_like_a_gain() -> None:
    random = np.random.default_rng(0)
    walks = [overlapping(random, 240) for _ in range(1000)]
    single = np.mean([p_value_of_mean(gains) < 0.05 for gains in walks])
    blocks = np.mean([p_value_of_mean(g.reshape(-1, H).mean(axis=1)) < 0.05 for g in walks])
    assert single > 0.25
    assert blocks < 0.12  # neighbouring blocks still share days


# The test of Diebold and Mariano


def slow_diebold_mariano(gains: list[float], h: int) -> tuple[float, float]:
    """As Harvey, Leybourne and Newbold (1997) print it, sum by sum."""
    n = len(gains)
    mean = sum(gains) / n
    variance = 0.0
    for lag in range(h):
        gamma = sum((gains[t] - mean) * (gains[t - lag] - mean) for t in range(lag, n)) / n
        variance += gamma if lag == 0 else 2 * gamma
    uncorrected = mean / math.sqrt(variance / n)
    statistic = math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n) * uncorrected
    return statistic, 2 * float(stats.t.cdf(-abs(statistic), n - 1))


@pytest.mark.parametrize(("n", "h"), [(20, 1), (20, 3), (40, 10), (250, 10), (21, 2)])
def test_diebold_mariano_agrees_with_a_slow_reference(n: int, h: int) -> None:
    for seed in range(20):
        gains = overlapping(np.random.default_rng(seed), n, h) + 0.3
        try:
            expected = slow_diebold_mariano(gains.tolist(), h)
        except ValueError:  # the plain sum of autocovariances is below zero
            continue
        assert diebold_mariano(gains, h) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 100])
def test_without_overlap_diebold_mariano_is_students_test(n: int) -> None:
    gains = np.random.default_rng(n).normal(0.2, 1, n)
    student = stats.ttest_1samp(gains, 0)
    assert diebold_mariano(gains, 1) == pytest.approx((student.statistic, student.pvalue))


def test_the_sign_says_who_is_better() -> None:
    gains = overlapping(np.random.default_rng(0), 200) + 20
    better, p_value = diebold_mariano(gains, H)
    assert better > 0
    assert p_value < 0.001
    assert diebold_mariano(-gains, H) == (-better, p_value)


def test_the_size_of_the_gains_does_not_matter() -> None:
    gains = overlapping(np.random.default_rng(3), 100)
    assert diebold_mariano(gains * 1e-6, H) == pytest.approx(diebold_mariano(gains, H))


@pytest.mark.parametrize(("n", "h"), [(1, 1), (3, 2), (19, 10)])
def test_too_few_origins_tell_nothing(n: int, h: int) -> None:
    assert diebold_mariano(np.arange(1.0, n + 1), h) == (0, 1)
    told = diebold_mariano(np.random.default_rng(n).normal(size=2 * h), h)
    assert told != (0, 1)


@pytest.mark.parametrize("h", [1, H])
def test_forecasts_that_do_not_differ_are_no_better(h: int) -> None:
    assert diebold_mariano(np.zeros(100), h) == (0, 1)
    assert diebold_mariano(np.full(100, 0.5), h) == (0, 1)  # no variance to judge by


def test_a_negative_sum_of_autocovariances_is_weighted_as_newey_and_west_do() -> None:
    gains = np.tile([1.5, -0.5], 20) + np.random.default_rng(0).normal(0, 0.1, 40)
    centred = gains - gains.mean()
    gamma = [float(centred @ centred) / 40, float(centred[1:] @ centred[:-1]) / 40]
    assert gamma[0] + 2 * gamma[1] < 0
    corrected = math.sqrt((40 + 1 - 4 + 2 / 40) / 40)
    expected = corrected * gains.mean() / math.sqrt((gamma[0] + gamma[1]) / 40)
    assert diebold_mariano(gains, 2)[0] == pytest.approx(expected, rel=1e-9)


def test_diebold_mariano_rejects_about_as_seldom_as_it_says() -> None:
    random = np.random.default_rng(0)
    walks = [overlapping(random, 250) for _ in range(1500)]
    found = np.mean([diebold_mariano(gains, H)[1] < 0.05 for gains in walks])
    naively = np.mean([diebold_mariano(gains, 1)[1] < 0.05 for gains in walks])
    assert 0.02 < found < 0.1
    assert naively > 0.4
