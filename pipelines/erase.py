"""Customers leave every table and file below the root; a tombstone keeps them from coming back."""

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.crash_points import crash_point
from caspr_spark.data_docs import FOLDER as DATA_DOCS
from caspr_spark.disk import remove_scratch
from caspr_spark.erase.history import forget_history, remove_rows
from caspr_spark.erase.names import Names
from caspr_spark.erase.requests import Request, demand_same_ids, ids_hash, read_request, write_request
from caspr_spark.erase.traces import traces
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.registry import FINETUNED, PREDICTIONS
from caspr_spark.runs import mend_runs
from caspr_spark.session import local_frame
from caspr_spark.tables import notes_at, read_table, table_exists, table_path, table_version, write_table
from caspr_spark.tombstones import Tombstones, customer_hash, secret_key, tombstones
from pipelines.contracts import event_contract, profile_contract, state_contract
from pipelines.summary import Summary
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDINGS
from schemas.runs import RUNS
from schemas.tombstones import TOMBSTONES

_WITHOUT_CHANGE = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES")


def erase(spark: SparkSession, config: Config, ids: list[str], request_id: str, *, now: datetime) -> Summary:
    """Erase the customers `ids` (sorted) under the name `request_id`; a request that was killed is finished.

    `now` is noted as the time of the request. No id leaves this function in clear.

    Raises:
        ConfigError: the request was made before, for other customers.
        UnsafeError: the key of earlier tombstones is gone.
    """
    root = config.root
    request = read_request(root, request_id)
    if request is not None:
        demand_same_ids(root, request, ids)
        if request.finished:
            note = f"request {request_id} was finished at {request.finished}: nothing to do"
            return Summary("erase", len(ids), 0, (note,), changed=False)
    else:
        mend_runs(spark, CUSTOMER_EMBEDDINGS, root)
        request = Request(
            request_id,
            requested=now.isoformat(timespec="seconds"),
            num_customers=len(ids),
            ids_hash=ids_hash(root, ids),
            program=__version__,
            versions_before={
                contract.name: _version_of_rows(spark, contract, root)
                for contract in (event_contract(config), profile_contract(config))
            },
        )
        write_request(root, request)
    _write_tombstones(spark, root, request, ids)
    crash_point("erase_after_tombstones")
    graves = tombstones(spark, root)
    assert graves is not None  # they were just written
    for place in _customer_tables(spark, config):
        request = _erase_from(spark, config, place, graves, request)
        crash_point(f"erase_after_{place.name}")
    _renumber_runs(spark, config, request)
    request = _erase_files(Path(root), request)
    crash_point("erase_after_files")
    write_request(root, replace(request, finished=now.isoformat(timespec="seconds")))
    return Summary("erase", len(ids), sum(request.rows_erased.values()), tuple(_notes(request)))


def verified(root: str, ids: list[str], request_id: str) -> str:
    """One line that says what was read and that none of the customers (sorted) was found in it.

    Raises:
        ConfigError: there is no such request, or it was made for other customers.
        CasprError: it was not finished, or something still names one of them.
    """
    request = read_request(root, request_id)
    if request is None:
        raise ConfigError(f"{root}: there is no erasure '{request_id}'")
    demand_same_ids(root, request, ids)
    if not request.finished:
        raise CasprError(f"request {request_id} was not finished; run the same `caspr-spark erase` again")
    names = Names(ids)
    read = traces(Path(root), names)
    of = f"{len(names):,} customers in {read.num_files:,} files, {read.num_bytes:,} bytes"
    if read.places:
        raise CasprError(
            f"request {request_id}: traces of {of}, at {len(read.places):,} places:\n"
            + "\n".join(f"  - {place}" for place in read.places)
        )
    return f"request {request_id}: no trace of {of}"


def _write_tombstones(spark: SparkSession, root: str, request: Request, ids: list[str]) -> None:
    key, time = secret_key(root), datetime.fromisoformat(request.requested)
    rows = [(customer_hash(key, customer), request.request_id, time) for customer in ids]
    types = ", ".join(f"{column.name} {column.type}" for column in TOMBSTONES.columns)
    table = local_frame(spark, rows, types).coalesce(1)
    write_table(table, TOMBSTONES, root, mode="append", once=f"erase-{request.request_id}")


def _customer_tables(spark: SparkSession, config: Config) -> list[Path]:
    """All Delta tables below the root with a row for customers; `events` last, whose commit speaks of the states."""
    places = [log.parent for log in sorted(Path(config.root).glob("*/_delta_log"))]
    named = [place for place in places if "customer_id" in spark.read.format("delta").load(str(place)).columns]
    return sorted(named, key=lambda place: place.name == event_contract(config).name)


def _erase_from(spark: SparkSession, config: Config, place: Path, graves: Tombstones, request: Request) -> Request:
    """Take the customers out of one table, and cut its history; returns the request with what went noted."""
    notes = notes_at(spark, str(place))
    if place.name == state_contract(config).name:
        _back_to_noted(spark, config, place)
    columns = spark.read.format("delta").load(str(place)).columns
    num_rows = 0
    for key in [name for name in ("customer_id", "content") if name in columns]:
        rows = spark.read.format("delta").load(str(place))
        found = _found(rows, key, graves)
        num = rows.join(found, on=key, how="left_semi").count()
        num_rows += num
        request = _noted(request, place.name, num_rows)  # first, so that a killed run does not forget it
        write_request(config.root, request)
        if num:
            remove_rows(spark, place, found, key=[key])
    if place.name == event_contract(config).name and "numbers" in notes:
        notes["numbers"] = {**notes["numbers"], **_numbers_of_events(spark, config, place, notes["numbers"])}
    forget_history(spark, place, request_id=request.request_id, notes=notes)
    return request


def _found(rows: DataFrame, key: str, graves: Tombstones) -> DataFrame:
    """The distinct customers, or raw contents, that must go."""
    if key == "content":
        return graves.naming(rows, "content").select("content").distinct()
    return graves.erased(rows.select(key).distinct(), F.col(key))


def _noted(request: Request, name: str, num_rows: int) -> Request:
    most = max(num_rows, request.rows_erased.get(name, 0))  # a rerun finds none of what a killed run removed
    return replace(request, rows_erased={**request.rows_erased, name: most})


def _back_to_noted(spark: SparkSession, config: Config, place: Path) -> None:
    """Make the version of the states that the newest commit of events speaks of the newest one.

    They differ where a refresh was killed between the two. Where that version is gone, this request has cut the
    history before, and what is there was made of it.
    """
    events = table_path(event_contract(config), config.root)
    noted = notes_at(spark, events).get("numbers", {}).get("states", {}).get("version")
    table = DeltaTable.forPath(spark, str(place))
    is_there = not table.history().where(F.col("version") == noted).isEmpty()
    if is_there and noted < _version_of_rows(spark, state_contract(config), config.root):
        table.restoreToVersion(noted)


def _numbers_of_events(spark: SparkSession, config: Config, place: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """What the commit of events says of itself and of the states, after both were erased from."""
    found: dict[str, Any] = {"events": spark.read.format("delta").load(str(place)).count()}
    if "states" in numbers:
        states = state_contract(config)
        num_rows = read_table(spark, states, config.root).count()
        version = table_version(spark, states, config.root)
        was_anew = numbers["states"]["num_rows"] == numbers["states"]["num_rows_anew"]
        num_rows_anew = num_rows if was_anew else 0  # else the next refresh writes them anew
        rows = {"version": version, "num_rows": num_rows, "num_rows_anew": num_rows_anew}
        found["states"] = {**numbers["states"], **rows}
    return found


def _version_of_rows(spark: SparkSession, contract: Contract, root: str) -> int:
    """The oldest version of the table since which only maintenance went on; -1 where there is no table."""
    if not table_exists(spark, contract, root):
        return -1
    history = DeltaTable.forPath(spark, table_path(contract, root)).history()
    changed = F.max(F.when(~F.col("operation").isin(*_WITHOUT_CHANGE), F.col("version")))
    found = history.agg(F.coalesce(changed, F.min("version")).alias("version")).first()
    assert found is not None  # an aggregate without groups has one row
    return int(found["version"])


def _renumber_runs(spark: SparkSession, config: Config, request: Request) -> None:
    """Runs that saw the newest rows before now name the one that holds the same, but for the erased.

    The next refresh then goes on from there. Runs that saw an older version keep its number: what changed since is
    not known any more, and a refresh that goes on from them looks at every customer.
    """
    if not table_exists(spark, RUNS, config.root):
        return
    runs = DeltaTable.forPath(spark, table_path(RUNS, config.root))
    columns = {"events_version": event_contract(config), "profiles_version": profile_contract(config)}
    for column, contract in columns.items():
        before, now = request.versions_before[contract.name], table_version(spark, contract, config.root)
        if before >= 0:
            runs.update((F.col(column) >= before) & (F.col(column) != now), {column: F.lit(now)})


def _erase_files(root: Path, request: Request) -> Request:
    """Delete what is made of customers and can be made again: sequences, pages of reports; logs are emptied."""
    deleted = dict(request.files_erased)
    for name in ("sequences", "report", DATA_DOCS):
        number = sum(1 for path in (root / name).rglob("*") if path.is_file())
        deleted[name] = max(number, deleted.get(name, 0))
        shutil.rmtree(root / name, ignore_errors=True)
    answers = [*root.glob(f"{FINETUNED}/*/{PREDICTIONS}"), *root.glob(f"{FINETUNED}/*/checkpoints/.training-*/*")]
    for path in answers:
        path.unlink()
    deleted[FINETUNED] = max(len(answers), deleted.get(FINETUNED, 0))
    for log in (root / "logs").rglob("*"):
        if log.is_file() and not log.is_symlink():
            log.write_bytes(b"")  # not deleted: the running Spark writes to it
    remove_scratch(str(root))
    return replace(request, files_erased=deleted)


def _notes(request: Request) -> list[str]:
    rows = [f"{name} {number:,}" for name, number in sorted(request.rows_erased.items()) if number]
    files = [f"{name} {number:,}" for name, number in sorted(request.files_erased.items()) if number]
    return [
        f"rows erased: {', '.join(rows) or 'none; no table held any of these customers'}",
        f"files deleted: {', '.join(files) or 'none'}",
        f"prove it: caspr-spark erase verify {request.request_id}, with the same --config and --ids-file",
    ]
