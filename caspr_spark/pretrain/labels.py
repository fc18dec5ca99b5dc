"""The table of labels that somebody brings, and which customers of the sequences it speaks of."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from caspr_spark.errors import ConfigError, UnsafeError
from caspr_spark.manifest import SequenceManifest

LEAST = 15
"""Customers of a kind, five a part of the split."""
SHOWN = 3
"""Customers that a message names as examples."""
READERS = {".csv": "CSV", ".parquet": "Parquet"}


def read_labels(path: Path, *, as_of: datetime) -> pd.DataFrame:
    """customer_id (text) and label (float64), by customer_id, from CSV or Parquet.

    Raises ConfigError with everything that is wrong: columns, types, nulls, a customer that comes twice, another as_of,
    labels that leave nothing to learn.
    """
    table = _table(path)
    if missing := [name for name in ("customer_id", "label") if name not in table.columns]:
        found = ", ".join(map(str, table.columns))
        raise ConfigError(f"{path}: expected the columns customer_id and label, not found: {', '.join(missing)}; "
                          f"it has: {found}")  # fmt: skip
    ids = table["customer_id"]
    labels = pd.to_numeric(table["label"], errors="coerce").astype("float64")
    is_text = ids.map(lambda value: isinstance(value, str)).to_numpy(dtype=bool)
    is_null = (ids.isna() | (ids == "")).to_numpy(dtype=bool)
    is_number = np.isfinite(labels.to_numpy())
    problems = []
    if not len(table):
        problems.append("expected a row a customer, found none")
    if is_null.any():
        problems.append(f"customer_id: {is_null.sum():,} of {len(table):,} rows have none")
    if (~is_text & ~is_null).any():
        problems.append(
            f"customer_id: expected text, as in the feature table, found {ids[~is_text & ~is_null].iloc[0]!r}"
        )
    if (repeated := ids[ids.duplicated() & ~is_null]).size:
        problems.append(f"customer_id: expected a row a customer, {repeated.nunique():,} come again{_such(repeated)}")
    if not is_number.all():
        found = table["label"][~is_number].iloc[0]
        problems.append(f"label: expected a finite number, {(~is_number).sum():,} rows have none, the first {found!r}")
    if "as_of" in table.columns:
        problems += _other_times(table["as_of"], as_of)
    if is_number.all() and len(table):
        problems += _nothing_to_learn(labels.to_numpy())
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"{path}: these labels cannot be learned from; mend the file:\n{listed}")
    return pd.DataFrame({"customer_id": ids, "label": labels}).sort_values("customer_id", ignore_index=True)


def with_keys(labels: pd.DataFrame, folder: Path, manifest: SequenceManifest) -> pd.DataFrame:
    """`labels` with customer_key (int64) of the sequences in `folder`.

    Raises:
        ConfigError: a customer has no sequence there.
        UnsafeError: two customers have one key.
    """
    read = [pq.read_table(folder / file.path, columns=["customer_id", "customer_key"]) for file in manifest.files]
    known = pa.concat_tables(read).to_pandas() if read else pd.DataFrame({"customer_id": [], "customer_key": []})
    found = labels.merge(known, on="customer_id", how="left", validate="one_to_one", indicator=True)
    unknown = found["customer_id"][found["_merge"] == "left_only"]
    if unknown.size:
        why = "they have no event before it, or their ids are written otherwise; leave them out"
        if manifest.kind == "refresh":
            why = "these sequences are of a refresh, which looked at some customers; run build_sequences for this as_of"
        raise ConfigError(
            f"labels: {unknown.size:,} of {len(labels):,} customers have no sequence as of "
            f"{manifest.as_of.isoformat()}{_such(unknown)}: {why}"
        )
    found = found.drop(columns="_merge").astype({"customer_key": "int64"})
    if known["customer_key"][known["customer_key"].isin(found["customer_key"])].duplicated().any():
        raise UnsafeError(f"{folder}: two customers have one customer_key; rebuild the sequences")
    return found


def is_yes_or_no(labels: Any) -> bool:
    """Whether all labels are 0 or 1: then they are learned as probabilities, else as amounts."""
    return bool(np.isin(labels, (0.0, 1.0)).all())


def _table(path: Path) -> pd.DataFrame:
    if path.suffix not in READERS:
        raise ConfigError(f"--labels {path}: expected a name that ends in {' or '.join(READERS)}")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError(f"--labels {path}: no such file") from None
    except (OSError, ValueError) as error:  # of pandas and pyarrow: all errors of their parsers are ValueErrors
        raise ConfigError(f"--labels {path}: not a {READERS[path.suffix]} file that can be read ({error})") from None


def _such(ids: "pd.Series[Any]") -> str:
    shown = [repr(one) for one in list(dict.fromkeys(ids))[:SHOWN]]
    return f" ({', '.join(shown)}{', …' if ids.nunique() > SHOWN else ''})"


def _other_times(times: "pd.Series[Any]", as_of: datetime) -> list[str]:
    found = [value for value in times.unique() if _time(value) != as_of]
    if not found:
        return []
    return [
        f"as_of: expected {as_of.isoformat()} of --as-of in every row, found {str(found[0])!r}; write times with a zone"
    ]


def _time(value: Any) -> datetime | None:
    """As UTC; None for what is no time with a zone."""
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (TypeError, ValueError, OverflowError):
        return None


def _nothing_to_learn(labels: Any) -> list[str]:
    if is_yes_or_no(labels):
        positives = int(labels.sum())
        if min(positives, len(labels) - positives) < LEAST:
            return [
                f"label: expected 0 and 1, {LEAST} customers of each at least, found {len(labels) - positives:,} of 0 "
                f"and {positives:,} of 1"
            ]
        return []
    problems = []
    if len(labels) < LEAST:
        problems.append(f"label: expected {LEAST} customers at least, found {len(labels):,}")
    if math.isclose(float(np.ptp(labels)), 0.0):
        problems.append(f"label: all customers have {labels[0]:g}")
    return problems
