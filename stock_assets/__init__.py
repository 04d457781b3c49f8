"""From daily price CSVs to calibrated 10-day forecasts, as Dagster assets."""

__version__ = "0.1.0"
