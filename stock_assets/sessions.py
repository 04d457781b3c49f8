"""Trading days of the New York Stock Exchange: its holidays, half days and time zone."""

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from exchange_calendars import get_calendar

EXCHANGE_TIME = "America/New_York"
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


def is_session(day: date) -> bool:
    """Whether the exchange trades on a day."""
    return pd.Timestamp(day) in _sessions(day, day)


def last_closed(moment: datetime) -> date:
    """The newest trading day that is over at a moment; half days are over at 13:00."""
    closes = _calendar(moment.date() - _MARGIN, moment.date()).closes
    over: date = closes[closes <= pd.Timestamp(moment)].index[-1].date()
    return over


def _sessions(first: date, last: date) -> pd.DatetimeIndex:
    """The trading days of a span."""
    sessions = _calendar(first, last).sessions
    return pd.DatetimeIndex(sessions[sessions <= pd.Timestamp(last)])


def _calendar(first: date, last: date) -> Any:
    """The calendar of a span; widened to whole years, which the calendar library caches."""
    start, end = date(first.year, 1, 1) - _MARGIN, date(last.year, 12, 31)
    return get_calendar(_EXCHANGE, start=start.isoformat(), end=end.isoformat())
