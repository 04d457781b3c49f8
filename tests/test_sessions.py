"""Trading days of New York: holidays, weekends and the turn of the year are none."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stock_assets.sessions import is_session, last_closed, next_sessions, sessions_between

DAYS = st.dates(date(2019, 1, 1), date(2019, 8, 31))


@pytest.mark.parametrize(
    ("day", "following"),
    [
        (date(2019, 6, 25), date(2019, 6, 26)),
        (date(2019, 7, 3), date(2019, 7, 5)),  # Independence Day
        (date(2019, 7, 4), date(2019, 7, 5)),  # from the holiday itself
        (date(2019, 6, 28), date(2019, 7, 1)),  # over a weekend
        (date(2019, 6, 29), date(2019, 7, 1)),  # from a Saturday
        (date(2019, 6, 30), date(2019, 7, 1)),
        (date(2019, 12, 31), date(2020, 1, 2)),  # New Year
        (date(2019, 4, 18), date(2019, 4, 22)),  # Good Friday
        (date(2018, 12, 4), date(2018, 12, 6)),  # a day of mourning
        (date(2019, 11, 28), date(2019, 11, 29)),  # half a day is a day
    ],
)
def test_the_next_trading_day_is_known(day: date, following: date) -> None:
    assert next_sessions(day, 1) == [following]


def test_ten_sessions_over_independence_day() -> None:
    days = [1, 2, 3, 5, 8, 9, 10, 11, 12, 15]
    assert next_sessions(date(2019, 6, 28), 10) == [date(2019, 7, day) for day in days]


def test_ten_sessions_over_christmas_and_new_year() -> None:
    found = next_sessions(date(2018, 12, 24), 10)
    december = [date(2018, 12, day) for day in (26, 27, 28, 31)]
    assert found == december + [date(2019, 1, day) for day in (2, 3, 4, 7, 8, 9)]


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        (date(2019, 7, 3), date(2019, 7, 5), 1),
        (date(2019, 7, 3), date(2019, 7, 4), 0),
        (date(2019, 6, 28), date(2019, 6, 30), 0),
        (date(2019, 6, 28), date(2019, 7, 1), 1),
        (date(2019, 6, 29), date(2019, 7, 1), 1),
        (date(2018, 12, 31), date(2019, 12, 31), 252),
        (date(2019, 7, 5), date(2019, 7, 5), 0),
        (date(2019, 7, 8), date(2019, 7, 5), 0),
    ],
)
def test_sessions_between_two_days_are_counted(first: date, last: date, count: int) -> None:
    assert sessions_between(first, last) == count


@given(day=DAYS, count=st.integers(0, 30))
@settings(deadline=None, max_examples=25)
def test_counting_and_listing_agree(day: date, count: int) -> None:
    found = next_sessions(day, count)
    assert len(found) == count
    assert found == sorted(set(found))
    assert all(session > day and session.weekday() < 5 for session in found)
    assert sessions_between(day, found[-1] if found else day) == count


@given(day=DAYS, one=st.integers(0, 60), two=st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_sessions_of_two_spans_add_up(day: date, one: int, two: int) -> None:
    middle = day + timedelta(days=one)
    last = middle + timedelta(days=two)
    assert sessions_between(day, last) == (
        sessions_between(day, middle) + sessions_between(middle, last)
    )


@pytest.mark.parametrize(
    ("day", "trades"),
    [
        (date(2019, 7, 3), True),  # a half day
        (date(2019, 7, 4), False),
        (date(2019, 6, 29), False),
        (date(2019, 12, 31), True),
        (date(2020, 1, 1), False),
    ],
)
def test_a_day_is_known_for_a_trading_day(day: date, trades: bool) -> None:  # noqa: FBT001
    assert is_session(day) is trades


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2019-06-28T19:59Z", date(2019, 6, 27)),  # 15:59 in New York
        ("2019-06-28T20:00Z", date(2019, 6, 28)),
        ("2019-12-27T20:59Z", date(2019, 12, 26)),  # the same in winter
        ("2019-12-27T21:00Z", date(2019, 12, 27)),
        ("2019-07-03T16:59Z", date(2019, 7, 2)),  # a half day ends at 13:00
        ("2019-07-03T17:00Z", date(2019, 7, 3)),
        ("2019-07-05T12:00Z", date(2019, 7, 3)),  # after a holiday
        ("2019-07-08T01:00+09:00", date(2019, 7, 5)),  # on Monday in Tokyo
        ("2020-01-01T12:00Z", date(2019, 12, 31)),
    ],
)
def test_the_last_trading_day_is_the_one_that_is_over(moment: str, day: date) -> None:
    assert last_closed(datetime.fromisoformat(moment)) == day
