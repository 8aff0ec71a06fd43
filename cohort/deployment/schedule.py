"""When a catalog is brought up to date: a time of day, on all days or some, as cron, systemd and Kubernetes write it."""

import re
import zoneinfo
from dataclasses import dataclass

from cohort.deployment.refusal import DeployError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_FORM = re.compile(r"(?:(?P<days>\S+) +)?(?P<hour>\d{1,2}):(?P<minute>\d\d)")


@dataclass(frozen=True)
class Schedule:
    """A time of day.

    Examples
    --------
    >>> schedule = parse_schedule("Mon-Fri 03:30")
    >>> schedule.cron, schedule.calendar, schedule.most_hours
    ('30 3 * * 1,2,3,4,5', 'Mon,Tue,Wed,Thu,Fri *-*-* 03:30:00', 23)
    >>> parse_schedule("Sun 01:00").most_hours
    167
    """

    hour: int
    minute: int
    days: tuple[int, ...] = ()
    """0 for Monday; none: every day."""
    zone: str | None = None
    """Name of a time zone; without one the machine's own counts."""

    @property
    def cron(self) -> str:
        """Five fields, as cron and a CronJob read them; the zone is said elsewhere."""
        days = ",".join(str(day + 1) for day in self.days) or "*"
        return f"{self.minute} {self.hour} * * {days}"

    @property
    def clock(self) -> str:
        """The time alone."""
        return f"{self.hour:02}:{self.minute:02}"

    @property
    def calendar(self) -> str:
        """As ``OnCalendar=`` reads it."""
        days = ",".join(DAYS[day] for day in self.days)
        return " ".join(part for part in (days, f"*-*-* {self.clock}:00", self.zone) if part)

    @property
    def most_hours(self) -> int:
        """Hours that a call may take: one less than the shortest time to the next."""
        days = self.days or tuple(range(7))
        gaps = [(b - a) % 7 or 7 for a, b in zip(days, (*days[1:], days[0]), strict=True)]
        return 24 * min(gaps) - 1


def parse_schedule(text: str, *, zone: str | None = None) -> Schedule:
    """Read ``03:00``, ``Sun 03:00``, ``Mon-Fri 03:00`` or ``Sat,Sun 03:00``.

    Raises
    ------
    DeployError
        For anything else, and for a time zone that this machine does not know.
    """
    found = _FORM.fullmatch(text.strip())
    wrong = DeployError(
        f"schedule {text!r}: expected a time of day from 00:00 to 23:59, on some days if need be, "
        "such as 03:00, 'Mon-Fri 03:00' or 'Sat,Sun 03:00'"
    )
    if not found or int(found["hour"]) > 23 or int(found["minute"]) > 59:
        raise wrong
    days: set[int] = set()
    for part in (found["days"] or "").split(",") if found["days"] else ():
        ends = [end.capitalize() for end in part.split("-")]
        if len(ends) > 2 or not set(ends) <= set(DAYS):
            raise wrong
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        days |= {(first + n) % 7 for n in range((last - first) % 7 + 1)}
    known = zoneinfo.available_timezones()
    if zone is not None and zone not in (known or {zone}):
        raise DeployError(
            f"timezone {zone!r} is not known here; expected a name such as Europe/Berlin or Etc/UTC"
        )
    every = () if len(days) == 7 else tuple(sorted(days))
    return Schedule(int(found["hour"]), int(found["minute"]), every, zone)
