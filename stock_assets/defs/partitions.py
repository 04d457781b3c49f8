"""The two partition sets, both dynamic, and ranges of tickers."""

import time
import weakref
from collections.abc import Sequence
from typing import Any

import dagster as dg


class RememberedPartitions(dg.DynamicPartitionsDefinition):
    """Dynamic partitions that remember for a second which keys the last range had.

    ``add_asset_metadata`` asks for the keys of the run's range again with every key: in a run over
    n partitions Dagster would read all of them n times.
    """

    _last: tuple[Any, float, Sequence[str]] = (None, 0, ())

    def get_partition_keys_in_range(self, partition_key_range: dg.PartitionKeyRange) -> list[str]:
        """The keys from the start to the end of the range, in the order they were added."""
        with dg.partition_loading_context() as context:
            asked = (weakref.ref(context.dynamic_partitions_store), partition_key_range)
        known, at, keys = self._last
        if asked != known or time.monotonic() > at + 1:
            keys = super().get_partition_keys_in_range(partition_key_range)
            self._last = (asked, time.monotonic(), keys)
        return list(keys)


CSV_DROPS = dg.DynamicPartitionsDefinition(name="csv_drops")
TICKERS = RememberedPartitions(name="tickers")
