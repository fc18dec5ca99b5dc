"""The sequence builder again, slowly and plainly, from what schemas/ and caspr_spark/manifest.py say.

An event or profile is a dict of the columns of its table. Times are aware datetimes.
"""

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

Row = dict[str, Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Settings:
    as_of: datetime
    max_events: int
    min_count: int
    time_parts: list[str]
    zone: str
    categorical: list[str]
    """Declared ones; source and the time parts come before them."""
    sets: dict[str, int]
    numerical: list[str]
    profile_categorical: dict[str, str]
    """Attribute -> profile."""
    profile_numerical: dict[str, str]

    @property
    def all_categorical(self) -> list[str]:
        return ["source", *self.time_parts, *self.categorical]


def visible(events: list[Row], settings: Settings) -> list[Row]:
    """Events before as_of with their calendar parts, oldest first, ties by event_id."""
    seen = []
    for event in events:
        if event["event_time"] < settings.as_of:
            local = event["event_time"].astimezone(ZoneInfo(settings.zone))
            parts = {"hour": local.hour, "weekday": local.weekday(), "day_of_month": local.day, "month": local.month}
            seen.append(event | {part: str(parts[part]) for part in settings.time_parts})
    return sorted(seen, key=lambda event: (event["event_time"], event["event_id"]))


def profile_as_of(profiles: list[Row], customer: str, settings: Settings) -> Row:
    """Attribute -> what the newest row of its profile says; that may be: unknown."""
    known: Row = {}
    for attribute, profile in (settings.profile_categorical | settings.profile_numerical).items():
        rows = [
            row
            for row in profiles
            if row["customer_id"] == customer and row["profile"] == profile and row["valid_from_time"] < settings.as_of
        ]
        newest = max(rows, key=lambda row: row["valid_from_time"], default=None)
        known[attribute] = newest[attribute] if newest else None
    return known


def vocabulary(events: list[Row], profiles: dict[str, Row], settings: Settings) -> dict[str, dict[str, int]]:
    """Attribute -> value -> id, first fit: the most frequent first, then by value, from 3."""
    found = {}
    for attribute, values in _values(events, profiles, settings).items():
        counts = Counter(value for present in values for value in present)
        frequent = sorted((-count, value) for value, count in counts.items() if count >= settings.min_count)
        found[attribute] = {value: 3 + place for place, (_, value) in enumerate(frequent)}
    return found


def scaling(events: list[Row], profiles: dict[str, Row], ids: dict[str, dict[str, int]], settings: Settings) -> Row:
    """Attribute -> (count, mean, standard deviation, constant loss)."""
    result: Row = {}
    numbers = {name: [event[name] for event in events] for name in settings.numerical}
    numbers |= {name: [profile[name] for profile in profiles.values()] for name in settings.profile_numerical}
    for name, values in numbers.items():
        logs = [math.copysign(math.log1p(abs(value)), value) for value in values if value is not None]
        mean = sum(logs) / len(logs)
        deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / len(logs))
        result[name] = (len(logs), mean, max(deviation, 1e-6), 1.0)
    for name, present in _values(events, profiles, settings).items():
        counts = Counter(ids[name].get(value, 1) for values in present for value in values)
        shares = [min(1.0, count / len(present)) for count in counts.values()]
        nats = -sum(share * math.log(share) for share in shares)
        if name in settings.sets:
            nats -= sum((1 - share) * math.log(1 - share) for share in shares if share < 1)
        result[name] = (len(present), None, None, max(nats, 0.1))
    return result


def sequences(
    events: list[Row], profiles: list[Row], ids: dict[str, dict[str, int]], settings: Settings
) -> dict[str, Row]:
    """Customer -> the columns of the sequence files, without customer_key."""
    histories: dict[str, list[Row]] = {}
    for event in visible(events, settings):
        histories.setdefault(event["customer_id"], []).append(event)
    result = {}
    for customer, history in histories.items():
        row: Row = {"event_times": [], "categorical": [], "sets": [], "numerical": []}
        newest = history[-settings.max_events :]
        for event in newest:
            row["event_times"].append((event["event_time"] - EPOCH) // timedelta(microseconds=1))
            row["categorical"] += [_id(ids, name, event[name]) for name in settings.all_categorical]
            for name, width in settings.sets.items():
                members = [_id(ids, name, value) for value in event[name] or []]
                row["sets"] += members + [0] * (width - len(members))
            row["numerical"] += [math.nan if event[name] is None else event[name] for name in settings.numerical]
        padding = settings.max_events - len(newest)
        row["event_times"] += [0] * padding
        row["categorical"] += [0] * padding * len(settings.all_categorical)
        row["sets"] += [0] * padding * sum(settings.sets.values())
        row["numerical"] += [0.0] * padding * len(settings.numerical)
        profile = profile_as_of(profiles, customer, settings)
        row["profile_categorical"] = [_id(ids, name, profile[name]) for name in settings.profile_categorical]
        row["profile_numerical"] = [
            math.nan if profile[name] is None else profile[name] for name in settings.profile_numerical
        ]
        result[customer] = row | {"num_events": len(newest)}
    return result


def _values(events: list[Row], profiles: dict[str, Row], settings: Settings) -> dict[str, list[list[str]]]:
    """Attribute -> for each event (or profile) that has it, its values."""
    values = {name: [[event[name]] for event in events if event[name] is not None] for name in settings.all_categorical}
    values |= {name: [event[name] for event in events if event[name] is not None] for name in settings.sets}
    values |= {
        name: [[profile[name]] for profile in profiles.values() if profile[name] is not None]
        for name in settings.profile_categorical
    }
    return values


def _id(ids: dict[str, dict[str, int]], attribute: str, value: str | None) -> int:
    return 0 if value is None else ids[attribute].get(value, 1)
