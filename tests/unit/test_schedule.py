"""When a warmup is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.celery.cron import parsed
from workerkit.errors import DefinitionError
from workerkit.warming.schedule import MISSED, Cron, Due, Every, Schedule, due, offset

BERLIN = ZoneInfo("Europe/Berlin")
ALL = {
    "minutes": frozenset(range(60)),
    "hours": frozenset(range(24)),
    "days": frozenset(range(1, 32)),
    "months": frozenset(range(1, 13)),
    "weekdays": frozenset(range(7)),
}


def cron(**given: Any) -> Cron:
    named = {name: frozenset(values) for name, values in given.items() if name in ALL}
    return Cron(**{**ALL, **given, **named})


def at(*when: int, zone: Any = UTC, fold: int = 0) -> int:
    year, month, day, hour, minute = when
    return int(datetime(year, month, day, hour, minute, tzinfo=zone, fold=fold).timestamp()) * 1000


@given(st.integers(1000, 10**9), st.integers(0, 10**5), st.integers(10**12, 2 * 10**12))
def test_an_interval_is_due_each_time(interval: int, late: int, now: int) -> None:
    schedule = Every(interval, late)
    last, after = schedule.last(now), schedule.after(now)
    assert last <= now < after == last + interval
    assert (last - late) % interval == 0
    assert schedule.last(last) == last


SETS = {
    "minutes": st.frozensets(st.integers(0, 59), min_size=1),
    "hours": st.frozensets(st.integers(0, 23), min_size=1),
    "days": st.frozensets(st.integers(1, 28), min_size=1),
    "months": st.frozensets(st.integers(1, 12), min_size=1),
    "weekdays": st.frozensets(st.integers(0, 6), min_size=1),
}


def names(line: Cron, moment: datetime) -> bool:
    return (
        moment.minute in line.minutes
        and moment.hour in line.hours
        and moment.day in line.days
        and moment.month in line.months
        and moment.isoweekday() % 7 in line.weekdays
    )


@given(
    st.fixed_dictionaries({}, optional=SETS),
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - made UTC below
)
def test_a_line_is_due_at_the_minutes_it_names(named: dict[str, Any], now: datetime) -> None:
    line, now = cron(**named), now.replace(tzinfo=UTC)
    last = datetime.fromtimestamp(line.last(int(now.timestamp() * 1000)) // 1000, UTC)
    after = datetime.fromtimestamp(line.after(int(now.timestamp() * 1000)) // 1000, UTC)
    assert last <= now < after
    assert names(line, last)
    assert names(line, after)
    minute = last + timedelta(minutes=1)
    for _ in range(3000):  # no minute between the two is named, as far as one cares to look
        if minute >= after:
            break
        assert not names(line, minute)
        minute += timedelta(minutes=1)


def test_it_is_told_in_its_own_time() -> None:
    line = cron(minutes=[0], hours=[6], zone=BERLIN)
    assert line.last(at(2026, 7, 1, 12, 0)) == at(2026, 7, 1, 4, 0)
    assert line.last(at(2026, 1, 1, 12, 0)) == at(2026, 1, 1, 5, 0)


def test_a_minute_that_summer_time_leaves_out_comes_an_hour_later() -> None:
    line = cron(minutes=[30], hours=[2], zone=BERLIN)
    assert line.after(at(2026, 3, 29, 0, 0)) == at(2026, 3, 29, 3, 30, zone=BERLIN)
    assert line.last(at(2026, 3, 29, 12, 0)) == at(2026, 3, 29, 3, 30, zone=BERLIN)
    assert line.after(at(2026, 3, 29, 12, 0)) == at(2026, 3, 30, 2, 30, zone=BERLIN)


def test_a_day_that_is_left_out_comes_a_day_later() -> None:
    samoa = ZoneInfo("Pacific/Apia")  # 29 December 2011 was followed by the 31st
    line = cron(minutes=[0], hours=[6], days=[30], zone=samoa)
    assert line.after(at(2011, 12, 31, 5, 0, zone=samoa)) == at(2011, 12, 31, 6, 0, zone=samoa)


def test_an_hour_that_comes_twice() -> None:
    daily = cron(minutes=[30], hours=[2], zone=BERLIN)
    hourly = cron(minutes=[30], zone=BERLIN)
    twice = [at(2026, 10, 25, 2, 30, zone=BERLIN, fold=fold) for fold in (0, 1)]
    assert twice[1] - twice[0] == 3_600_000
    assert daily.after(twice[0]) == at(2026, 10, 26, 2, 30, zone=BERLIN)
    assert hourly.after(twice[0]) == hourly.last(twice[1] + 60_000) == twice[1]


def test_no_tick_on_the_day_before_one_whose_first_hour_is_left_out() -> None:
    cairo = ZoneInfo("Africa/Cairo")  # Friday, 26 April 2024 began at 01:00
    fridays = cron(minutes=[0], weekdays=[5], zone=cairo)
    assert fridays.after(at(2024, 4, 25, 12, 0, zone=cairo)) == at(2024, 4, 26, 1, 0, zone=cairo)
    assert fridays.last(at(2024, 4, 26, 1, 0, zone=cairo) - 1000) == at(2024, 4, 19, 23, 0, zone=cairo)


def test_rare_days() -> None:
    leap = cron(minutes=[0], hours=[0], days=[29], months=[2])
    assert leap.last(at(2026, 1, 1, 0, 0)) == at(2024, 2, 29, 0, 0)
    assert leap.after(at(2026, 1, 1, 0, 0)) == at(2028, 2, 29, 0, 0)
    sunday = cron(minutes=[0], hours=[0], days=[29], months=[2], weekdays=[0])
    assert sunday.after(at(2080, 1, 2, 0, 0)) == at(2088, 2, 29, 0, 0)
    assert sunday.after(at(2088, 3, 1, 0, 0)) == at(2128, 2, 29, 0, 0)
    for look in (cron(days=[30], months=[2]).after, cron(days=[31], months=[4]).last):
        with pytest.raises(DefinitionError, match="no day has such a date"):
            look(at(2026, 1, 1, 0, 0))


def test_jitter_is_by_name() -> None:
    late = [offset(f"warmup-{number}", 30_000) for number in range(200)]
    assert late == [offset(f"warmup-{number}", 30_000) for number in range(200)]
    assert 0 <= min(late) < 3000
    assert 27_000 < max(late) <= 30_000
    assert offset("any", 0) == 0
    assert {offset(f"warmup-{number}", 1) for number in range(50)} == {0, 1}
    line = cron(minutes=[0], hours=[6], offset=90_000)
    assert line.last(at(2026, 1, 1, 6, 1)) == at(2025, 12, 31, 6, 0) + 90_000
    assert line.after(at(2026, 1, 1, 6, 1)) == at(2026, 1, 1, 6, 0) + 90_000


def test_a_line_as_celery_reads_it() -> None:
    line = parsed("5,10 6-8 1 */6 mon-fri", 1500, what="w")
    named = {"minutes": [5, 10], "hours": [6, 7, 8], "days": [1], "months": [1, 7], "weekdays": range(1, 6)}
    assert line == cron(**named, offset=1500)


@pytest.mark.parametrize(
    "wrong", ["", "* * * *", "60 * * * *", "1- * * * *", "5, * * * *", "0 0 30 2 *", "* * * * funday", None, 5]
)
def test_what_is_no_cron_line(wrong: Any) -> None:
    with pytest.raises(DefinitionError, match=r"w: .* is no cron line .*; write minute hour day month weekday"):
        parsed(wrong, 0, what="w")


TEN = Every(10_000)


@pytest.mark.parametrize("missed", MISSED)
def test_on_time_they_are_all_alike(missed: Any) -> None:
    done = due(TEN, 1_003_000, 990_000, missed, 5000, at_once=True)
    assert done == Due(1_000_000, "", 1_000_000)
    assert due(TEN, 1_009_999, 1_000_000, missed, 5000, at_once=True) == Due(None, "done", 1_000_000)


def test_what_becomes_of_missed_ticks() -> None:
    def missing(missed: Any, grace: int | None, now: int = 1_003_000) -> Due:
        return due(TEN, now, 960_000, missed, grace, at_once=True)

    assert missing("once", None) == Due(1_000_000, "", 1_000_000, passed=3)
    assert missing("all", None) == Due(970_000, "", 970_000)
    assert missing("all", 13_000) == Due(990_000, "", 990_000, passed=2)
    assert missing("all", 12_999) == Due(1_000_000, "", 1_000_000, passed=3)
    assert missing("skip", 5000) == Due(1_000_000, "", 1_000_000, passed=3)
    assert missing("skip", 5000, now=1_005_001) == Due(None, "late", 1_000_000, passed=4)
    assert missing("once", None, now=10**9).passed == 1000


def test_what_is_new_begins_at_once_or_with_its_next_tick() -> None:
    assert due(TEN, 1_003_000, None, "once", None, at_once=True) == Due(1_000_000, "", 1_000_000)
    assert due(TEN, 1_003_000, None, "once", None, at_once=False) == Due(None, "first", 1_000_000)


@given(
    st.sampled_from([TEN, Every(7000, 3001), cron(minutes=range(0, 60, 5))]),
    st.sampled_from(MISSED),
    st.sampled_from([4000, 30_000, None]),
    st.lists(st.integers(1, 2_000_000), min_size=1, max_size=30),
)
def test_no_tick_is_run_twice_and_all_are_accounted_for(
    schedule: Schedule, missed: Any, grace: int | None, pauses: list[int]
) -> None:
    now = 1_700_000_000_000
    first = done = due(schedule, now, None, missed, grace, at_once=False).mark
    run: list[int] = []
    passed = 0
    for pause in pauses:
        now += pause
        while (found := due(schedule, now, done, missed, grace, at_once=False)).reason != "done":
            assert done < found.mark <= now
            if found.tick is not None:
                assert grace is None or now - found.tick <= grace
                run.append(found.tick)
            passed += found.passed
            done = found.mark
        assert done == schedule.last(now)
    assert run == sorted(set(run))
    count, tick = 0, first
    while (tick := schedule.after(tick)) <= now:
        count += 1
    assert len(run) + passed == count
