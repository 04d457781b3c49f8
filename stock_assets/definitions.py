"""What Dagster loads: wiring only, no work at import."""

import dagster as dg

from stock_assets.database import Database
from stock_assets.defs import assets, automation
from stock_assets.files import files_at
from stock_assets.settings import current_settings
from stock_assets.storage import Store


@dg.definitions
def defs() -> dg.Definitions:
    """The whole platform."""
    return dg.Definitions(
        assets=dg.map_asset_specs(
            automation.with_freshness,
            [
                assets.fetched_prices,
                assets.raw_prices,
                assets.validated_prices,
                assets.price_features,
                assets.ticker_models,
                assets.forecasts,
                assets.interval_widths,
                assets.market_model,
                assets.forecast_scores,
                assets.champion,
            ],
        ),
        jobs=automation.JOBS,
        sensors=automation.SENSORS,
        schedules=automation.SCHEDULES,
        resources={
            "settings": current_settings(),
            "database": Database(current_settings().prediction_database_url),
            "store": Store(files_at(current_settings().store)),
            "watch": _unwatched,
        },
        executor=dg.in_process_executor,
    )


def _unwatched(done: int, total: int) -> None:
    """Where nobody looks on while tickers are fetched."""
