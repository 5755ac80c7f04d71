"""Times: UTC milliseconds since 1970 internally, RFC 3339 externally, durations for people."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST = 100 * 365 * 86_400_000
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
# Smaller differences between clocks are ignored: Jenkins sends its time in whole seconds, and with a delay.
SAME_CLOCK_MS = 60_000
_SPOKEN = re.compile(r"(\d{1,6})\s*([A-Za-z]*)")
_WORDS = {
    "s": ("s", "sec", "secs", "second", "seconds"), "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"), "d": ("d", "day", "days"), "ms": ("ms", "millis", "milliseconds"),
}  # fmt: skip
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


class ImpossibleTimeError(ValueError):
    """A date or time that is written correctly and does not exist, such as 2026-02-30."""


class Clock:
    """The agent's two clocks. Tests replace them."""

    def now_ms(self) -> int:
        """Wall clock, UTC milliseconds. It may jump."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go backwards, for measuring waits."""
        return time.monotonic()

    def of_files_ms(self) -> int:
        """The clock that files of this machine have their times from, UTC milliseconds."""
        return self.now_ms()


def offset_ms(ahead_ms: int | None) -> int:
    """What to add to this machine's time to get the time of a controller whose clock is ahead by this much."""
    return 0 if ahead_ms is None or abs(ahead_ms) <= SAME_CLOCK_MS else ahead_ms


class Drift:
    """How far the wall clock was changed since this object was created, measured against the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._apart_ms = self._now_apart_ms()

    def ms(self) -> int:
        """Milliseconds; negative if the clock was set back."""
        return round(self._now_apart_ms() - self._apart_ms)

    def _now_apart_ms(self) -> float:
        return self._clock.now_ms() - self._clock.monotonic() * 1000


def rfc3339(ms: int) -> str:
    """``1700385632846`` -> ``2023-11-19T09:20:32.846Z``. Raises :class:`OverflowError` outside the years 1 to 9999."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_duration(text: str) -> int:
    """Milliseconds of ``15s``, ``1h30m``, ``500ms``, ``7d``. Raises :class:`ValueError` with the reason."""
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a duration; {_meant(text) or 'write it like 500ms, 15s, 5m, 24h or 7d'}")
    value = sum(Decimal(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if value > _LONGEST:
        raise ValueError(f"{text!r} is too long; the maximum is 36500d")
    return int(value)


def _meant(text: str) -> str | None:
    """What to write instead of ``7 days``, ``1 week`` or ``15``; None for anything else."""
    found = _SPOKEN.fullmatch(text.strip())
    if found is None:
        return None
    number, word = found[1], found[2].lower()
    if not word:
        return f"the unit is missing: {number}s, {number}m, {number}h or {number}d"
    if word.startswith("w"):
        return f"write {int(number) * 7}d"
    unit = next((unit for unit, words in _WORDS.items() if word in words), None)
    return None if unit is None else f"write {number}{unit}"


def parse_moment(value: str | date) -> int:
    """UTC milliseconds of an ISO 8601 date or time (text or TOML's own type); UTC if it has no zone.

    Raises :class:`ValueError` with the reason.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text)
        except ValueError as error:
            if _ISO_DATE.match(text) and "isoformat" not in str(error):
                raise ImpossibleTimeError(f"{text!r} does not exist: {error}") from None
            advice = "write it like 2026-01-31 or 2026-01-31T18:00:00Z"
            raise ValueError(f"{value!r} is not a date or time; {advice}") from None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the zone follows
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // timedelta(milliseconds=1)


def parse_http_date(text: str | None) -> int | None:
    """UTC milliseconds of a date as in HTTP and mail; UTC if it has no zone. None for anything else."""
    import email.utils  # noqa: PLC0415 - takes as long to load as all of emit

    try:
        moment = email.utils.parsedate_to_datetime(text or "")
    except (ValueError, OverflowError, TypeError, IndexError):  # the parser may raise any of these
        return None
    if moment.tzinfo is None:  # also for `-0000`; datetime itself would assume local time
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def parse_retry_after(value: str | None, now_ms: int) -> int | None:
    """Milliseconds to wait according to a Retry-After header, in seconds or as a date; None if it is invalid."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return int(text[:12]) * 1000
    moment = parse_http_date(text)
    return None if moment is None else max(0, moment - now_ms)


def parse_since(value: str | date, now_ms: int) -> int:
    """UTC milliseconds of ``now``, of a duration before now, or of a date or time."""
    if isinstance(value, str):
        text = value.strip()
        if text == "now":
            return now_ms
        if _DURATION.fullmatch(text):
            return now_ms - parse_duration(text)
        try:
            return parse_moment(text)
        except ImpossibleTimeError:
            raise
        except ValueError:
            advice = _meant(text) or "write it like 24h, 7d, 2026-01-31 or 2026-01-31T18:00:00Z"
            raise ValueError(f"{value!r} is not a date, a time or a duration; {advice}") from None
    return parse_moment(value)


def describe_duration(ms: int) -> str:
    """The two largest units of a duration, for people: ``2h 5m``."""
    ms = max(ms, 0)
    if ms < 1000:
        return f"{ms}ms"
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, ms = divmod(ms, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
