"""Measures of errors: by hand, by simulation, and honest about errors that share days."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.evaluation import conformal_quantile, coverage, mae, p_value_of_gain, rmse
from stock_assets.features import FloatArray

ERRORS = np.array([[1.0, -2.0], [0.0, 5.0]])
H = 10


def independent_errors(random: np.random.Generator, n: int) -> FloatArray:
    return random.normal(size=(n, H))


def overlapping_errors(random: np.random.Generator, n: int) -> FloatArray:
    """Of a walk's next 1..10 days from each of its days: neighbours share up to nine days."""
    walk = np.concatenate([[0.0], random.normal(size=n + H).cumsum()])
    return np.stack([walk[h : h + n] - walk[:n] for h in range(1, H + 1)], axis=1)


def test_measures_by_hand() -> None:
    assert mae(ERRORS) == 2
    assert rmse(ERRORS) == math.sqrt(7.5)
    assert coverage(ERRORS, np.array([[1.0, 1.0], [1.0, 1.0]])) == 0.5
    assert coverage(ERRORS, np.array([0.5, 5.0])) == 0.75


# Conformal quantiles


@given(n=st.integers(1, 300), level=st.integers(1, 99))
@settings(deadline=None, max_examples=200)
def test_the_conformal_rank_follows_the_formula(n: int, level: int) -> None:
    scores = np.random.default_rng(n).permutation(n).astype(float) + 1
    rank = math.ceil(Fraction((n + 1) * level, 100))
    (quantile,) = conformal_quantile(scores[:, None], level)
    assert quantile == (rank if rank <= n else n)


@pytest.mark.parametrize(("n", "level", "rank"), [(19, 95, 19), (20, 95, 20), (39, 95, 38)])
def test_conformal_ranks_by_hand(n: int, level: int, rank: int) -> None:
    assert conformal_quantile(np.arange(1.0, n + 1)[:, None], level) == [rank]


@pytest.mark.parametrize(("n", "level"), [(1, 80), (3, 80), (5, 95), (18, 95)])
def test_too_few_scores_give_the_largest(n: int, level: int) -> None:
    assert conformal_quantile(np.arange(n, dtype=float)[:, None], level) == [n - 1]


def test_each_horizon_has_its_own_quantile() -> None:
    scores = np.stack([np.arange(1.0, 10.0), np.arange(10.0, 1.0, -1.0)], axis=1)
    assert conformal_quantile(scores, 80).tolist() == [8, 9]


@pytest.mark.parametrize(("n", "level"), [(9, 80), (24, 80), (24, 95), (99, 80), (99, 95)])
def test_intervals_cover_at_least_their_level(n: int, level: int) -> None:
    random = np.random.default_rng(0)
    scores = np.abs(random.standard_t(3, size=(n + 1, 20_000)))
    covered = (scores[-1] <= conformal_quantile(scores[:-1], level)).mean()
    share = math.ceil(Fraction((n + 1) * level, 100)) / (n + 1)
    assert covered == pytest.approx(share, abs=0.01)
    assert covered >= level / 100 - 0.01


# The test of a gain


def test_identical_errors_are_no_gain() -> None:
    errors = independent_errors(np.random.default_rng(0), 60)
    assert p_value_of_gain(errors, errors, H) == 1
    assert p_value_of_gain(-errors, errors, H) == 1


@pytest.mark.parametrize(("error", "p_value"), [(1.0, 0.0), (3.0, 1.0)])
def test_a_constant_difference_is_certain(error: float, p_value: float) -> None:
    assert p_value_of_gain(np.full((40, H), error), np.full((40, H), 2.0), H) == p_value


def test_the_p_value_by_hand() -> None:
    baseline = np.repeat([[3.0], [4.0], [8.0]], 10, axis=0)
    errors = np.full((30, 1), -2.0)
    # Block means 1, 2 and 6: mean 3, standard error sqrt(7 / 3), t = 1.963961 with two degrees.
    by_hand = 0.5 - 1.963961 / (2 * math.sqrt(2 + 1.963961**2))
    assert p_value_of_gain(errors, baseline, 10) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("n", [32, 252])
def test_a_real_gain_is_seen_and_a_loss_is_not_a_gain(n: int) -> None:
    errors = overlapping_errors(np.random.default_rng(1), n)
    assert p_value_of_gain(0.5 * errors, errors, H) < 0.05
    assert p_value_of_gain(errors, 0.5 * errors, H) > 0.95


@pytest.mark.parametrize("n", [32, 252])
def test_p_values_are_uniform_where_there_is_no_gain(n: int) -> None:
    random = np.random.default_rng(0)
    p_values = [
        p_value_of_gain(independent_errors(random, n), independent_errors(random, n), H)
        for _ in range(1000)
    ]
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.mean(np.array(p_values) < share) == pytest.approx(share, abs=0.04)


def test_blocks_keep_overlapping_errors_from_looking_like_a_gain() -> None:
    random = np.random.default_rng(0)
    pairs = [(overlapping_errors(random, 120), overlapping_errors(random, 120)) for _ in range(600)]
    false_gains = {
        block: np.mean([p_value_of_gain(*pair, block=block) < 0.05 for pair in pairs])
        for block in (1, H)
    }
    assert false_gains[H] < 0.1
    assert false_gains[1] > 0.2


@given(st.integers(20, 300))
@settings(deadline=None, max_examples=30)
def test_every_origin_counts(n: int) -> None:
    errors = np.zeros((n, 1))
    baseline = np.random.default_rng(n).uniform(1, 2, size=(n, 1))
    for origin in (0, n - 1):
        worse = errors.copy()
        worse[origin] = 1000.0
        p_value = p_value_of_gain(worse, baseline, H)
        assert p_value > p_value_of_gain(errors, baseline, H)
