"""The two partition sets, both dynamic, and ranges of tickers."""

import dagster as dg

CSV_DROPS = dg.DynamicPartitionsDefinition(name="csv_drops")
TICKERS = dg.DynamicPartitionsDefinition(name="tickers")
