"""How often a key may be used."""

import math
import time

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from stock_assets.errors import SetupError


class Rate:
    """A number of requests per time, the same for everybody, counted in this process."""

    def __init__(self, text: str) -> None:
        """Read it, such as 100/second.

        Raises:
            SetupError: It is none.
        """
        try:
            rates = parse_many(text)
        except ValueError:
            rates = []
        if len(rates) != 1 or not rates[0].amount:
            raise SetupError(
                f"STOCK_ASSETS_API_RATE_LIMIT is {text!r}. Expected one such as 100/second"
            )
        (self._item,) = rates
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def __str__(self) -> str:
        """As a person says it: 100 per 1 second."""
        return str(self._item)

    def wait(self, who: str) -> int:
        """Count a request; the seconds until it may be made, 0 where it may be now."""
        if self._limiter.hit(self._item, who):
            return 0
        until = self._limiter.get_window_stats(self._item, who).reset_time
        return max(1, math.ceil(until - time.time()))
