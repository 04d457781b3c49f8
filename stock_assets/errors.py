"""What can go wrong that a user can mend; each message says found, expected and what to do."""


class StockAssetsError(Exception):
    """Base of the errors whose message is written for the user."""


class DropError(StockAssetsError):
    """A file is no CSV of daily prices at all and is refused as a whole."""


class UnknownTickerError(StockAssetsError):
    """No prices of a ticker are known."""


class ForecastNotFoundError(StockAssetsError):
    """No forecast is stored for a ticker."""


class SetupError(StockAssetsError):
    """The installation lacks something: a file, a package, a setting."""


class DatabaseError(SetupError):
    """The database cannot be used; the message has its driver's words."""


class RunFailedError(StockAssetsError):
    """A Dagster run ended in failure; the message is what its failed step says."""


class BacktestError(StockAssetsError):
    """The prices do not allow the backtest that was asked for."""


class ProviderError(StockAssetsError):
    """A provider has no usable prices of a ticker; others may be had."""


class ProviderDownError(ProviderError):
    """It is no use to ask a provider on: it is down, refuses us, or our limit is used up."""
