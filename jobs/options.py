"""Options that several verbs have, and how their texts are read."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from caspr_spark.errors import ConfigError

ConfigPaths = Annotated[
    list[Path], typer.Option("--config", help="YAML laid over conf/base.yaml; may be given again, later ones win.")
]
AsOf = Annotated[
    str,
    typer.Option(
        "--as-of", help="End of the interval, exclusive, with a zone: 2017-10-02T00:00:00Z. Later events are not seen."
    ),
]
Model = Annotated[str, typer.Option("--model", help="champion, challenger, or a version of `models ls`.")]
AsOfs = Annotated[
    list[str],
    typer.Option(
        "--as-of", help="As above; may be given again: one model, trained before the first, is published as of each."
    ),
]


def parsed_as_of(text: str, option: str = "--as-of") -> datetime:
    """An ISO 8601 time with a zone, as UTC. Raises ConfigError, which names the option."""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ConfigError(f"{option}: {text!r} has no time zone; for UTC write e.g. {time.isoformat()}Z")
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f"{option}: expected a time such as 2017-10-02T00:00:00Z, found {text!r}") from None


def refresh_times(as_of: list[str], every_hours: int | None, *, now: datetime) -> list[datetime]:
    """The times of --as-of in order, or the end of the newest whole interval of `every_hours` that is over by `now`.

    Raises:
        ConfigError: not exactly one of the two was given, or a day is no whole number of such intervals.
    """
    if bool(as_of) == (every_hours is not None):
        raise ConfigError("refresh: give --as-of TIME, or --every-hours N, and not both")
    if every_hours is None:
        return sorted({parsed_as_of(text) for text in as_of})
    if every_hours < 1 or 24 % every_hours:
        raise ConfigError(f"--every-hours: expected 1, 2, 3, 4, 6, 8, 12 or 24, found {every_hours}; or give --as-of")
    now = now.astimezone(UTC)
    return [now.replace(hour=now.hour - now.hour % every_hours, minute=0, second=0, microsecond=0)]
