"""What the tests of this folder share."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from caspr_spark.config import Config
from caspr_spark.config_file import load_config

AS_OF = datetime(2024, 6, 1, tzinfo=UTC)
LENIENT = Path(__file__).parents[1] / "golden" / "events" / "lenient.yaml"


def config_of(folder: Path, *overlays: Path, **sections: Any) -> Config:
    """The configuration with these sections, its tables below `folder`."""
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"dataset": "tests", "root": str(folder / "root")} | sections, sort_keys=False))
    return load_config([*overlays, overlay])


def visits(file: Path, **changes: Any) -> dict[str, Any]:
    """A source of the columns id, customer, at, amount."""
    declared = {
        "format": "csv",
        "path": str(file),
        "entity": "customer",
        "time": {"column": "at"},
        "key": ["id"],
        "attributes": {"amount": {"kind": "numerical"}},
    }
    return declared | changes
