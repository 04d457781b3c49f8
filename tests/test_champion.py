"""One champion for all tickers: naive, unless the evidence is beyond noise."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from stock_assets.champion import (
    MIN_LIVE_DAYS,
    SIGNIFICANCE,
    Gains,
    LiveRecord,
    choose_champion,
)
from stock_assets.features import FloatArray
from stock_assets.models import NAIVE

ORIGINS = 10  # of a ticker in a fortnight
FIRST = 1217  # number of a fortnight in 2016


def backtests(means: FloatArray, origins: int = ORIGINS) -> list[Gains]:
    """Gains of a model whose mean gain of a ticker (row) in a fortnight (column) is given."""
    return [
        {str(FIRST + n): (mean * origins, origins) for n, mean in enumerate(of_ticker)}
        for of_ticker in np.atleast_2d(means).tolist()
    ]


def nothing(tickers: int = 1, fortnights: int = 8) -> list[Gains]:
    return backtests(np.zeros((tickers, fortnights)))


def means_with_p_value(p_value: float, fortnights: int = 8) -> FloatArray:
    """Means of fortnights of which Student's one-sided test gives this p-value."""
    noise = np.random.default_rng(0).normal(size=fortnights)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    wanted = stats.t.isf(p_value, df=fortnights - 1) / np.sqrt(fortnights)
    return np.asarray(noise + wanted)


CLEAR = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.3, 1.0])
LUCKY = means_with_p_value(0.3)


def champion_of(
    models: Mapping[str, Sequence[Gains]], live: Mapping[str, LiveRecord] | None = None
) -> str:
    return choose_champion({NAIVE: nothing(), **models}, live).champion


# Who wins


@pytest.mark.parametrize("models", [{}, {NAIVE: nothing()}, {NAIVE: []}])
def test_naive_is_the_champion_where_nobody_challenges(models: dict[str, list[Gains]]) -> None:
    decision = choose_champion(models)
    assert decision.champion == NAIVE
    assert decision.reason == "nothing else was backtested"
    assert decision.p_values == decision.gains == {}


@pytest.mark.parametrize(
    "gains",
    [[], [{}], nothing(), backtests(-CLEAR), backtests(LUCKY), backtests(np.array([5.0]))],
    ids=["no ticker", "no origin", "no gain", "loss", "luck", "one fortnight"],
)
def test_naive_is_the_champion_without_evidence(gains: list[Gains]) -> None:
    assert champion_of({"challenger": gains}) == NAIVE


def test_a_clear_gain_makes_a_champion() -> None:
    decision = choose_champion({NAIVE: nothing(), "challenger": backtests(CLEAR)})
    assert decision.champion == "challenger"
    assert set(decision.p_values) == set(decision.gains) == {"challenger"}
    assert decision.p_values["challenger"] < 1e-5
    assert decision.gains["challenger"] == pytest.approx(CLEAR.mean())


def test_naive_itself_is_not_tested_whatever_its_gains() -> None:
    assert choose_champion({NAIVE: backtests(CLEAR)}).champion == NAIVE


def test_the_largest_gain_wins_among_those_beyond_noise() -> None:
    models = {
        "sure": backtests(CLEAR),
        "best": backtests(3 * CLEAR + 0.3 * LUCKY),
        "lucky": backtests(100 * LUCKY),
    }
    decision = choose_champion(models)
    assert decision.champion == "best"
    assert decision.p_values["sure"] < decision.p_values["best"]
    assert decision.gains["lucky"] > decision.gains["best"]


def test_the_order_of_the_models_does_not_matter() -> None:
    models = {"sure": backtests(CLEAR), "best": backtests(2 * CLEAR), "lucky": backtests(LUCKY)}
    orders = itertools.permutations(models)
    assert {champion_of({name: models[name] for name in order}) for order in orders} == {"best"}


# The test


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_those_of_the_means_of_fortnights(seed: int) -> None:
    means = np.random.default_rng(seed).normal(0.3, 1, size=(7, 9))
    found = choose_champion({"challenger": backtests(means)})
    expected = stats.ttest_1samp(means.mean(axis=0), 0, alternative="greater").pvalue
    assert found.p_values["challenger"] == pytest.approx(expected, rel=1e-9)
    assert found.gains["challenger"] == pytest.approx(means.mean(), rel=1e-9)


@pytest.mark.parametrize("challengers", [1, 2, 5])
def test_the_threshold_is_divided_by_the_number_of_challengers(challengers: int) -> None:
    others = {f"other_{n}": nothing() for n in range(challengers - 1)}
    needed = SIGNIFICANCE / challengers
    below = {"challenger": backtests(means_with_p_value(0.98 * needed)), **others}
    above = {"challenger": backtests(means_with_p_value(1.02 * needed)), **others}
    assert champion_of(below) == "challenger"
    assert champion_of(above) == NAIVE


def test_tickers_count_by_their_origins() -> None:
    many = {str(FIRST + n): (6.0, 9) for n in range(4)}
    few = {str(FIRST + n): (-1.0, 1) for n in range(4)}
    gains = choose_champion({"challenger": [many, few]}).gains
    assert gains["challenger"] == pytest.approx(0.5)


def test_a_gain_that_all_tickers_share_counts_once() -> None:
    means = means_with_p_value(0.2)
    alone = choose_champion({"challenger": backtests(means)})
    market = choose_champion({"challenger": backtests(np.tile(means, (500, 1)))})
    assert market.champion == NAIVE
    assert market.p_values["challenger"] == pytest.approx(alone.p_values["challenger"])


def test_the_same_gains_of_independent_tickers_are_more_evidence() -> None:
    means = 0.5 + np.random.default_rng(0).normal(0, 2, size=(100, 8))
    alone = [champion_of({"challenger": backtests(of_ticker)}) for of_ticker in means]
    assert alone.count(NAIVE) > 70
    assert champion_of({"challenger": backtests(means)}) == "challenger"


@pytest.mark.parametrize(("origins", "counts"), [(4, False), (5, True)])
def test_fortnights_of_fewer_than_half_the_usual_origins_are_left_out(
    origins: int,
    counts: bool,  # noqa: FBT001
) -> None:
    (full,) = backtests(CLEAR)
    thin = {str(FIRST - 1): (1000.0 * origins, origins)}
    without = choose_champion({"challenger": [full]})
    found = choose_champion({"challenger": [{**thin, **full}]})
    if counts:
        assert found.gains["challenger"] > 100
    else:
        assert found == without


def test_fortnights_are_thin_over_all_tickers_together() -> None:
    late = {str(FIRST + 7): (10.0, 10)}  # a ticker of one fortnight takes none away
    found = choose_champion({"challenger": [*backtests(np.tile(CLEAR, (3, 1))), late]})
    assert found.gains["challenger"] == pytest.approx(CLEAR.mean())


def test_gains_may_come_back_from_json_as_lists() -> None:
    lists = [{key: list(told) for key, told in of.items()} for of in backtests(CLEAR)]
    assert choose_champion({"challenger": lists}) == choose_champion(
        {"challenger": backtests(CLEAR)}
    )


# Noise


def share_of_promotions(tickers: int, fortnights: int, challengers: int, market: float) -> float:
    """Of models no better than naive; market: the share of noise that is common to all tickers."""
    random = np.random.default_rng(0)
    promoted = []
    for _ in range(500):
        models = {}
        for n in range(challengers):
            common = random.normal(0, np.sqrt(market), size=fortnights)
            own = random.normal(0, np.sqrt(1 - market), size=(tickers, fortnights))
            models[f"noise_{n}"] = backtests(common + own)
        promoted.append(champion_of(models) != NAIVE)
    return float(np.mean(promoted))


@pytest.mark.parametrize("challengers", [1, 4])
@pytest.mark.parametrize("market", [0.0, 0.5, 1.0])
def test_noise_is_seldom_promoted(challengers: int, market: float) -> None:
    found = share_of_promotions(6, 8, challengers, market)
    assert found < SIGNIFICANCE + 0.03  # three standard errors of 500 draws
    assert found > SIGNIFICANCE / 2


@pytest.mark.parametrize("fortnights", [3, 20])
def test_noise_is_seldom_promoted_however_long_the_backtests(fortnights: int) -> None:
    assert share_of_promotions(3, fortnights, 2, 0.5) < SIGNIFICANCE + 0.03


def test_outcomes_that_overlap_do_not_look_like_a_gain() -> None:
    random, days, promoted = np.random.default_rng(0), 60, []
    for _ in range(1000):
        returns = random.normal(size=days + 9)
        gains = np.convolve(returns, np.arange(10, 0, -1) / 10, "valid")  # mean over h = 1..10
        promoted.append(champion_of({"noise": backtests(gains.reshape(-1, 10).mean(axis=1))}))
    assert 1 - promoted.count(NAIVE) / 1000 < 2 * SIGNIFICANCE  # neighbouring fortnights share days


# In production


@pytest.mark.parametrize(
    ("days", "mae_ratio", "champion"),
    [
        (MIN_LIVE_DAYS, 1.001, NAIVE),
        (60, 1.2, NAIVE),
        (MIN_LIVE_DAYS, 1.0, "challenger"),
        (60, 0.98, "challenger"),
        (MIN_LIVE_DAYS - 1, 1.5, "challenger"),
        (0, float("nan"), "challenger"),
    ],
)
def test_who_is_behind_naive_in_production_for_long_enough_steps_down(
    days: int, mae_ratio: float, champion: str
) -> None:
    live = {"challenger": LiveRecord(days, mae_ratio)}
    assert champion_of({"challenger": backtests(CLEAR)}, live) == champion


def test_the_next_best_takes_over() -> None:
    models = {"best": backtests(2 * CLEAR), "second": backtests(CLEAR)}
    live = {"best": LiveRecord(60, 1.05), "second": LiveRecord(60, 0.99)}
    assert champion_of(models) == "best"
    assert champion_of(models, live) == "second"


def test_a_good_record_in_production_does_not_replace_evidence() -> None:
    live = {"lucky": LiveRecord(60, 0.5)}
    assert champion_of({"lucky": backtests(LUCKY)}, live) == NAIVE


def test_records_of_models_that_do_not_compete_are_ignored() -> None:
    live = {"retired": LiveRecord(60, 2.0), NAIVE: LiveRecord(60, 1.0)}
    assert champion_of({"challenger": backtests(CLEAR)}, live) == "challenger"


# Reasons


def test_the_reason_of_a_champion_says_p_and_the_threshold() -> None:
    models = {"challenger": backtests(means_with_p_value(0.0123)), "other": nothing()}
    assert choose_champion(models).reason == (
        "beats naive beyond noise in its backtests: p = 0.0123 where less than 0.0250 is needed"
    )


def test_the_reason_of_naive_names_who_came_nearest() -> None:
    models = {"far": backtests(means_with_p_value(0.7)), "near": backtests(LUCKY)}
    assert choose_champion(models).reason == (
        "no model beats it beyond noise: near comes nearest with p = 0.300 where less than "
        "0.0250 is needed"
    )


def test_the_reason_of_a_veto_says_what_happened_in_production() -> None:
    live = {"challenger": LiveRecord(34, 1.0456)}
    assert choose_champion({"challenger": backtests(CLEAR)}, live).reason == (
        "challenger won in backtests, but in production its error was 1.046 of naive's over 34 days"
    )
