"""A time of day means the same to cron, to systemd and to a walk through the calendar."""

import itertools
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from renderings import tool

from cohort.deployment.refusal import DeployError
from cohort.deployment.schedule import DAYS, parse_schedule

START = datetime(2026, 11, 21, 12, 34, tzinfo=UTC)


def by_cron(line: str, count: int) -> list[datetime]:
    """Next times of a line of plain numbers and stars, as crontab(5) defines them: every minute is asked."""
    minute, hour, day, month, weekday = line.split()
    assert (day, month) == ("*", "*")
    days = {int(d) % 7 for d in weekday.split(",")} if weekday != "*" else set(range(7))
    found, now = [], START
    while len(found) < count:
        now += timedelta(minutes=1)
        if (now.minute, now.hour) == (int(minute), int(hour)) and now.isoweekday() % 7 in days:
            found.append(now)
    return found


def by_systemd(calendar: str, count: int) -> list[datetime]:
    said = subprocess.run(
        [tool("systemd-analyze"), "calendar", calendar, f"--iterations={count}", f"--base-time={START:%Y-%m-%d %H:%M:%S} UTC"],
        check=True, capture_output=True, text=True, env={"TZ": "UTC", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    times = re.findall(r"(?:Next elapse|Iter(?:ation|\.) #\d+): \w+ (\S+ \S+) UTC", said)
    return [datetime.strptime(t, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for t in times]


@settings(max_examples=12)
@given(
    days=st.sets(st.sampled_from(DAYS)),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
)
def test_cron_and_systemd_agree_when_it_is_and_how_long_it_may_take(days, hour, minute):
    text = f"{hour}:{minute:02}"
    schedule = parse_schedule(f"{','.join(sorted(days))} {text}" if days else text)
    times = by_cron(schedule.cron, 9)
    assert by_systemd(schedule.calendar, 9) == times
    if days:
        assert {DAYS[t.weekday()] for t in times} <= days
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert min(gaps) - timedelta(hours=1) == timedelta(hours=schedule.most_hours)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("03:00", ""),
        ("mon-fri 3:00", "1,2,3,4,5"),
        ("Sat-Mon 03:00", "1,6,7"),
        ("Wed,Sun 03:00", "3,7"),
        ("Mon-Sun 03:00", ""),
    ],
)
def test_days_are_listed_or_a_range(text, days):
    assert parse_schedule(text).cron == f"0 3 * * {days or '*'}"


@pytest.mark.parametrize(
    "text",
    [
        "24:00",
        "3",
        "03:60",
        "0 3 * * *",
        "Mon-Tue-Wed 03:00",
        "Feb 03:00",
        "",
        "Mon,, 3:00",
        "03:00\n",
    ],
)
def test_what_is_no_time_of_day_is_refused(text):
    if text.endswith("\n"):
        assert parse_schedule(text) == parse_schedule("03:00")
        return
    with pytest.raises(DeployError, match=r"expected a time of day.*such as 03:00"):
        parse_schedule(text)


def test_a_time_zone_is_one_that_is_known():
    assert parse_schedule("03:00", zone="Europe/Berlin").calendar == "*-*-* 03:00:00 Europe/Berlin"
    with pytest.raises(DeployError, match=r"'Europe/Berlim' is not known here"):
        parse_schedule("03:00", zone="Europe/Berlim")


def test_systemd_knows_a_wrong_calendar():
    done = subprocess.run(
        [tool("systemd-analyze"), "calendar", "Mon *-*-* 25:00:00"],
        check=False,
        capture_output=True,
    )
    assert done.returncode != 0
