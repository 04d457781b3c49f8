"""Real daily prices to try the platform with, from the package bokeh_sampledata."""

from importlib import import_module
from pathlib import Path

import pandas as pd

from stock_assets.errors import SetupError

SECTORS = {
    "AAPL": "Technology",
    "FB": "Communication Services",
    "GOOG": "Communication Services",
    "IBM": "Technology",
    "MSFT": "Technology",
}
DAYS = 250


def write_demo_csv(folder: Path) -> Path:
    """Write the last 250 days of five tickers as one CSV in our format; the same bytes each time.

    Raises:
        SetupError: The package with the prices is not installed.
    """
    try:
        stocks = import_module("bokeh_sampledata.stocks")
    except ImportError as error:
        raise SetupError(
            "The demo prices are in a package that is not installed: "
            "pip install 'stock-assets[demo]'"
        ) from error
    frames = [
        pd.DataFrame(getattr(stocks, ticker)).tail(DAYS).assign(ticker=ticker, sector=sector)
        for ticker, sector in SECTORS.items()
    ]
    columns = ["ticker", "sector", "date", "close", "open", "low", "high", "volume"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo-prices.csv"
    unfinished = path.with_suffix(".tmp")
    pd.concat(frames)[columns].to_csv(unfinished, index=False, lineterminator="\n")
    return unfinished.replace(path)
