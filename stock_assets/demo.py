"""Real daily prices to try the platform with, from the package bokeh_sampledata."""

from importlib import import_module

import pandas as pd

from stock_assets.errors import SetupError
from stock_assets.files import Files

SECTORS = {
    "AAPL": "Technology",
    "FB": "Communication Services",
    "GOOG": "Communication Services",
    "IBM": "Technology",
    "MSFT": "Technology",
}
DAYS = 250


def write_demo_csv(drops: Files) -> str:
    """Write the last 250 days of five tickers as one CSV in our format; the same bytes each time.

    Returns:
        Its name there.

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
    csv = pd.concat(frames)[columns].to_csv(index=False, lineterminator="\n")
    drops.write_each([("demo-prices.csv", csv.encode())])
    return "demo-prices.csv"
