"""Drift: a ticker that changed is told from one that did not, and only once it can be learned."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from stock_assets.drift import MAX_DISTANCE, NEW_DAYS, WATCHED, feature_drift
from stock_assets.features import price_features
from tests.conftest import make_prices

LAST = date(2019, 6, 28)
BEFORE = date(2019, 6, 27)


def with_last_days(name: str, factor: float) -> pd.DataFrame:
    """Features of which one is larger on the last days."""
    features = price_features(make_prices(days=150))
    last = np.arange(150) >= 150 - NEW_DAYS
    return features.assign(**{name: features[name] * np.where(last, factor, 1.0)})


def test_a_ticker_that_stays_as_it_was_has_not_drifted() -> None:
    distances = [
        feature_drift(price_features(make_prices(days=150, seed=seed)), BEFORE)
        for seed in range(50)
    ]
    assert max(distances) < MAX_DISTANCE
    assert min(distances) > 0


@pytest.mark.parametrize("name", WATCHED)
def test_any_watched_feature_that_changes_is_drift(name: str) -> None:
    shifted = with_last_days(name, 1.0)
    shifted.loc[shifted.index[-NEW_DAYS:], name] += 10 * shifted[name].std()
    assert feature_drift(shifted, BEFORE) == 1.0


def test_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    features = with_last_days("high_low", 2.0)
    known = features.dropna()
    expected = max(
        ks_2samp(known[name].iloc[:-NEW_DAYS], known[name].iloc[-NEW_DAYS:]).statistic
        for name in WATCHED
    )
    assert feature_drift(features, BEFORE) == pytest.approx(expected)


def test_models_that_know_the_last_day_have_not_drifted() -> None:
    changed = with_last_days("high_low", 10.0)
    assert feature_drift(changed, BEFORE) > MAX_DISTANCE
    assert feature_drift(changed, LAST) == 0.0


@pytest.mark.parametrize("days", [1, NEW_DAYS, 2 * NEW_DAYS])
def test_too_few_days_say_nothing(days: int) -> None:
    assert feature_drift(price_features(make_prices(days=days)), BEFORE) == 0.0
