"""What a run works on: a contiguous range of tickers, and the assets that are made of it."""

import json
from collections.abc import Collection, Sequence

GAP = 200  # tickers that a range may hold besides, to save the start of another run

_HEAVY = {"interval_widths", "market_model", "ticker_models"}  # they hold the market, or train


def ranges(
    order: Sequence[str],
    wanted: Collection[str],
    *,
    most: int,
    gap: int = GAP,
    apart: Collection[str] = (),
) -> list[list[str]]:
    """Contiguous ranges of partition keys that hold all the wanted ones.

    Args:
        order: All keys in the order of the partition set.
        wanted: Keys to cover.
        most: Keys in a range, at most.
        gap: Other keys in a row that a range may hold to reach the next wanted one.
        apart: Keys that are in no range.
    """
    found: list[list[str]] = []
    skipped: list[str] = []
    joins = False  # whether the last range may grow
    for key in order:
        if key in wanted:
            if joins and len(skipped) <= gap and len(found[-1]) + len(skipped) < most:
                found[-1] += [*skipped, key]
            else:
                found.append([key])
            skipped, joins = [], True
        elif key in apart:
            joins = False
        else:
            skipped.append(key)
    return found


def range_tags(chunk: Sequence[str]) -> dict[str, str]:
    """The tags of a run over this range."""
    return {
        "dagster/asset_partition_range_start": chunk[0],
        "dagster/asset_partition_range_end": chunk[-1],
    }


def of_tickers(*, train: bool) -> list[str]:
    """The assets that forecast a range of tickers, with or without training their models anew."""
    return ["price_features", *(["ticker_models"] if train else []), "forecasts", "champion"]


def of_market(*, train: bool) -> list[str]:
    """The assets that all tickers tell together, with or without the pooled models."""
    return ["interval_widths", *(["market_model"] if train else []), "forecast_scores"]


def memory_tags(assets: Collection[str], memory: str) -> dict[str, str]:
    """The tags that have Kubernetes give this memory to a run of these assets, if it is heavy."""
    if not memory or _HEAVY.isdisjoint(assets):
        return {}
    resources = {"requests": {"memory": memory}, "limits": {"memory": memory}}
    return {"dagster-k8s/config": json.dumps({"container_config": {"resources": resources}})}
