"""What a team calls: the latest vectors, those known at given times, those of one run."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.reader.frames import Frame, Kind, as_kind, column_names, kind_of, texts_of, times_of, with_columns
from caspr_spark.reader.point_in_time import newest_of_each_customer, newest_positions, rivals_of
from caspr_spark.reader.snapshot import Snapshot, is_among, is_within, of_model, rows_of, snapshot
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS


def read_latest(
    root: str | Path,
    customers: Iterable[str] | None = None,
    *,
    model_version: str | None = None,
    mix_models: bool = False,
    columns: Sequence[str] | None = None,
    version: int | None = None,
    as_: Kind = "arrow",
) -> Frame:
    """The newest vector of each customer, or of each of `customers` that has one; ordered by customer_id.

    It is the champion's: the model in use. With `model_version` it is the newest one of that model, found in the
    history, so that a reader who has pinned a model is not disturbed by the publishing of another, nor by a switch.
    `columns` are the contract's that come back beside customer_id (all by default). `version` is the version of the
    table that is read: `customer_embeddings`, or `customer_embedding_history` with `model_version`.

    Raises:
        UnsafeError: the result would hold vectors of several models.
        CasprError: no such table, version, model or column.
    """
    contract = CUSTOMER_EMBEDDINGS if model_version is None else CUSTOMER_EMBEDDING_HISTORY
    names = ["customer_id", *_chosen(columns, contract)]
    table = snapshot(root, contract, version)
    conditions = of_model(model_version)
    if customers is not None:
        conditions.append(is_among("customer_id", _texts(customers)))
    rows = rows_of(table, contract, [*names, "as_of", "model_version", "run_id"], conditions)
    if model_version is not None:
        _stop_if_unknown("model_version", model_version, rows, table)
        rows = rows.take(newest_of_each_customer(rows))
    elif not mix_models:
        _stop_if_models_are_mixed(rows, table)
    return as_kind(rows.select(names).sort_by("customer_id"), as_)


def read_as_of(
    root: str | Path,
    entities: Frame,
    *,
    time_column: str = "event_time",
    zone: str | None = None,
    max_age: timedelta | None = None,
    model_version: str | None = None,
    mix_models: bool = False,
    columns: Sequence[str] | None = None,
    version: int | None = None,
    as_: Kind | None = None,
) -> Frame:
    """`entities` with the vector of each row's customer that was the newest at the row's time: as_of <= time.

    Args:
        entities: rows with `customer_id` (text) and `time_column`; a customer may have many. Rows, their order, all
            their columns and a pandas index are kept.
        zone: the IANA time zone of times that have none; without it such times are refused.
        max_age: a vector whose as_of is older than this at the row's time counts as none.
        model_version: only vectors of this model; by default of the champion, the model in use, which is refused where
            a time lies before its first vectors and another model has some.
        mix_models: allow vectors of several models in the result; at an equal as_of the greatest run_id is taken.
        columns: the contract's columns that are added (all but customer_id by default). They are null in rows without
            a vector, without a time, or without a customer.
        version: the version of `customer_embedding_history` that is read.
        as_: the kind that comes back; by default the kind of `entities`.

    Raises:
        UnsafeError: the result would hold vectors of several models.
        CasprError: no such table, version, model or column; times without a zone; column names that clash.
    """
    entities = as_kind(entities, as_ or kind_of(entities))
    names = _chosen(columns, CUSTOMER_EMBEDDING_HISTORY)
    if clashing := sorted(set(names) & set(column_names(entities))):
        raise CasprError(
            f"entities: the columns {', '.join(clashing)} are there already and would be added; "
            "rename them, or name in columns= the ones to add"
        )
    customers, times = texts_of(entities, "customer_id"), times_of(entities, time_column, zone)

    table = snapshot(root, CUSTOMER_EMBEDDING_HISTORY, version)
    conditions = [is_among("customer_id", customers), is_within(times, max_age), *of_model(model_version)]
    needed = ["customer_id", "as_of", "run_id", "model_version", *names]
    history = rows_of(table, CUSTOMER_EMBEDDING_HISTORY, needed, conditions)
    if model_version is not None:
        _stop_if_unknown("model_version", model_version, history, table)
    served = None if mix_models or model_version is not None else _served_model(root)
    everything = history
    if served is not None:
        history = everything.filter(pc.equal(everything.column("model_version"), served))
    positions = newest_positions(customers, times, history, max_age)
    if served is not None:
        earlier = _before_the_first_of(served, everything, table)
        missed = newest_positions(customers, times, earlier, max_age).filter(pc.is_null(positions))
        _stop_if_missed(earlier.take(missed.drop_null()), table)
    elif not mix_models and model_version is None:
        _stop_if_models_are_mixed(rivals_of(history, positions), table)
    vectors = pa.table({name: history.column(name).take(positions) for name in names})
    return with_columns(entities, vectors)


def read_run(
    root: str | Path,
    run_id: str,
    customers: Iterable[str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    version: int | None = None,
    as_: Kind = "arrow",
) -> Frame:
    """The vectors of one run, or those of `customers` in it; ordered by customer_id.

    A refresh computes only the customers that had something new, so a run need not hold every customer.

    Raises:
        CasprError: no such table, version, run or column.
    """
    names = ["customer_id", *_chosen(columns, CUSTOMER_EMBEDDING_HISTORY)]
    table = snapshot(root, CUSTOMER_EMBEDDING_HISTORY, version)
    conditions = [pc.field("run_id") == run_id]
    if customers is not None:
        conditions.append(is_among("customer_id", _texts(customers)))
    rows = rows_of(table, CUSTOMER_EMBEDDING_HISTORY, names, conditions)
    _stop_if_unknown("run_id", run_id, rows, table)
    return as_kind(rows.sort_by("customer_id"), as_)


def newest_versions(root: str | Path) -> dict[str, int]:
    """Table name -> its newest version, of the two published tables."""
    contracts = (CUSTOMER_EMBEDDINGS, CUSTOMER_EMBEDDING_HISTORY)
    return {contract.name: snapshot(root, contract, None).version for contract in contracts}


def _chosen(columns: Sequence[str] | None, contract: Contract) -> list[str]:
    """The columns to add to customer_id."""
    if columns is None:
        columns = contract.column_names
    if isinstance(columns, str) or (unknown := [name for name in columns if name not in contract.column_names]):
        asked = columns if isinstance(columns, str) else ", ".join(unknown)
        raise CasprError(f"columns: expected a list of {', '.join(contract.column_names)}; found {asked}")
    return [name for name in dict.fromkeys(columns) if name != "customer_id"]


def _texts(customers: Iterable[str]) -> Any:
    """Customer ids of any iterable as pyarrow.Array."""
    if isinstance(customers, str):
        raise CasprError(f"customers: expected a list of customer ids, found the text {customers!r}")
    values = [value.as_py() if isinstance(value, pa.Scalar) else value for value in customers]
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        found = next(value for value in values if not isinstance(value, str | None))
        raise CasprError(f"customers: expected texts, found {found!r}; customers are known by text") from None


def _served_model(root: str | Path) -> str | None:
    """The model of the latest table; None where there is none yet, or several."""
    try:
        latest = snapshot(root, CUSTOMER_EMBEDDINGS, None)
    except CasprError:
        return None
    models = rows_of(latest, CUSTOMER_EMBEDDINGS, ["model_version"], []).column("model_version").unique().to_pylist()
    return models[0] if len(models) == 1 else None


def _before_the_first_of(model: str, history: Any, table: Snapshot) -> Any:
    """Rows of `history` from before the model's first vector in the table."""
    first = pc.min(rows_of(table, CUSTOMER_EMBEDDING_HISTORY, ["as_of"], of_model(model)).column("as_of"))
    return history.filter(pc.less(history.column("as_of"), first)) if first.is_valid else history


def _stop_if_missed(rows: Any, table: Snapshot) -> None:
    if rows.num_rows:
        raise UnsafeError(
            f"{table.path}: for {rows.num_rows} rows there is no vector of the champion, the model in use, but one of "
            f"another model from before it, which cannot be compared with it ({_models_of(rows)}). {_CHOOSE}"
        )


def _stop_if_models_are_mixed(rows: Any, table: Snapshot) -> None:
    if (num_models := len(rows.column("model_version").unique())) > 1:
        raise UnsafeError(
            f"{table.path}: the result would hold vectors of {num_models} models, which cannot be compared with "
            f"one another ({_models_of(rows)}). {_CHOOSE}"
        )


_CHOOSE = "Choose one with model_version=, or take all with mix_models=True"


def _models_of(rows: Any) -> str:
    """Each model of the rows with its number of vectors and their times."""
    models = rows.group_by("model_version").aggregate([("as_of", "min"), ("as_of", "max"), ("as_of", "count")])
    return "; ".join(
        f"{model['model_version']}: {model['as_of_count']} vectors, as of {model['as_of_min']:%Y-%m-%d %H:%M} to "
        f"{model['as_of_max']:%Y-%m-%d %H:%M}"
        for model in models.sort_by([("as_of_max", "ascending"), ("model_version", "ascending")]).to_pylist()
    )


def _stop_if_unknown(column: str, value: str, rows: Any, table: Snapshot) -> None:
    """Where nothing was found: was the value published at all, so that there only are no such customers or times?"""
    if rows.num_rows:
        return
    known = rows_of(table, CUSTOMER_EMBEDDING_HISTORY, [column, "as_of"], [])
    newest = (
        known.group_by(column)
        .aggregate([("as_of", "max")])
        .sort_by([("as_of_max", "descending"), (column, "ascending")])
    )
    names = newest.column(column).to_pylist()
    if value not in names:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise CasprError(f"{table.path}: no {column} '{value}' here; it has, newest first: {shown or 'none'}")
