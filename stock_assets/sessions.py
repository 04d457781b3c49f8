"""Trading days of the New York Stock Exchange."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
from exchange_calendars import get_calendar

_EXCHANGE = "XNYS"
_MARGIN = timedelta(days=30)  # holds ten sessions, whatever the holidays


def next_sessions(day: date, count: int) -> list[date]:
    """The trading days after a day, whether it is one itself or not."""
    sessions = _sessions(day, day + timedelta(days=2 * count) + _MARGIN)
    after = sessions[sessions > pd.Timestamp(day)]
    return [session.date() for session in after[:count]]


def sessions_between(first: date, last: date) -> int:
    """Trading days after ``first`` up to and with ``last``; 0 where first is the later one."""
    if first >= last:
        return 0
    return int(np.sum(_sessions(first, last) > pd.Timestamp(first)))


def _sessions(first: date, last: date) -> pd.DatetimeIndex:
    """The trading days of a span; widened to whole years, which the calendar library caches."""
    start, end = date(first.year, 1, 1) - _MARGIN, date(last.year, 12, 31)
    sessions = get_calendar(_EXCHANGE, start=start.isoformat(), end=end.isoformat()).sessions
    return pd.DatetimeIndex(sessions[sessions <= pd.Timestamp(last)])
