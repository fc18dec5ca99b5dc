"""What the fields of the configuration are made of."""

import re
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Sql = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
OnFail = Literal["stop", "warn"]
Format = Literal["csv", "json", "parquet", "delta", "table", "jdbc"]
Aggregate = Literal["sum", "count", "min", "max", "mean", "distinct", "most_frequent"]
Runtime = Literal["torch", "onnx"]


def overlaid(below: Any, above: Any) -> Any:
    """Mappings are merged key by key; of anything else `above` wins."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: overlaid(below[key], above[key]) if key in below and key in above else above.get(key, below.get(key))
            for key in [*below, *(key for key in above if key not in below)]
        }
    return above


def known_zone(zone: str) -> str:
    """`zone` if it is an IANA zone name such as Europe/Berlin. Raises ValueError."""
    if zone not in available_timezones():
        raise ValueError("expected a time zone such as UTC or Europe/Berlin")
    return zone


def plain_path(path: str) -> str:
    """`path` if it is one of this machine's file system, absolute or relative, links and .. allowed. Raises ValueError.

    Anything else would be taken for the name of a folder in the working directory: `file:`, `~`, `${HOME}`.
    """
    is_other = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/|~", path) or "${" in path
    if not path.strip() or is_other or not path.isprintable():
        raise ValueError("expected a path such as data or /srv/data, without scheme, ~ or ${...}")
    return path


PlainPath = Annotated[str, AfterValidator(plain_path)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
