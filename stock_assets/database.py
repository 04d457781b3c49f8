"""The prediction database: idempotent writes, and the queries on it."""

from stock_assets.forecast_records import Champion, ForecastRecords
from stock_assets.price_records import Changes, Drop, LastPrices, PriceRecords, TickerState

__all__ = ["Champion", "Changes", "Database", "Drop", "LastPrices", "TickerState"]


class Database(PriceRecords, ForecastRecords):
    """The prediction database at one address."""
