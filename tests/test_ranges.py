"""Ranges of partition keys: they hold what is wanted, and little else."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stock_assets.ranges import memory_tags, of_market, of_tickers, ranges


@st.composite
def partition_sets(draw: st.DrawFn) -> tuple[list[str], set[str], set[str]]:
    """Partition keys in their order, the wanted ones, and the ones to stay clear of."""
    order = draw(st.lists(st.sampled_from("ABCDEFGHIJKLMNOP"), unique=True))
    kinds = [draw(st.sampled_from(["wanted", "apart", "neither"])) for _ in order]
    of_kind = {
        kind: {key for key, of_key in zip(order, kinds, strict=True) if of_key == kind}
        for kind in ("wanted", "apart")
    }
    return order, of_kind["wanted"], of_kind["apart"]


@given(keys=partition_sets(), most=st.integers(1, 6), gap=st.integers(0, 4))
def test_ranges_cover_what_is_wanted_and_little_else(
    keys: tuple[list[str], set[str], set[str]], most: int, gap: int
) -> None:
    order, wanted, apart = keys
    found = ranges(order, wanted, most=most, gap=gap, apart=apart)
    covered = [key for chunk in found for key in chunk]
    assert len(covered) == len(set(covered))
    assert wanted <= set(covered)
    assert apart.isdisjoint(covered)
    for chunk in found:
        start = order.index(chunk[0])
        assert chunk == order[start : start + len(chunk)]
        assert len(chunk) <= most
        others = "".join("w" if key in wanted else "." for key in chunk).split("w")
        assert others[0] == others[-1] == ""
        assert max(map(len, others)) <= gap
    for left, right in pairwise(found):
        together = order[order.index(left[0]) : order.index(right[-1]) + 1]
        between = together[len(left) : -len(right)]
        assert apart.intersection(between) or len(between) > gap or len(together) > most


@pytest.mark.parametrize(
    ("assets", "is_heavy"),
    [
        (of_tickers(train=False), False),
        (of_tickers(train=True), True),
        (of_market(train=False), True),
        (of_market(train=True), True),
    ],
)
def test_what_trains_or_reads_all_prices_is_heavy(assets: list[str], *, is_heavy: bool) -> None:
    assert list(memory_tags(assets, "4Gi")) == ["dagster-k8s/config"] * is_heavy
    assert not memory_tags(assets, "")
