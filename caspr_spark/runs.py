"""The published runs: which there are, and where the next refresh goes on."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import SequenceManifest
from caspr_spark.session import local_frame
from caspr_spark.tables import column_types, last_commit_notes, read_table, table_exists, write_table
from schemas.contract import Contract
from schemas.runs import RUNS

Kind = Literal["full", "refresh"]


@dataclass(frozen=True)
class Run:
    """One row of RUNS."""

    run_id: str
    as_of: datetime
    kind: Kind
    model_version: str
    previous_run_id: str | None
    events_version: int
    profiles_version: int
    num_customers: int = 0
    num_removed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The run for the notes of a commit."""
        return {**asdict(self), "as_of": self.as_of.isoformat()}


def run_from_json(values: dict[str, Any]) -> Run:
    """The run of `Run.as_json`."""
    return Run(**{**values, "as_of": datetime.fromisoformat(values["as_of"])})


def embedding_run_id(manifest: SequenceManifest, model_version: str) -> str:
    """Equal sequences and an equal model give an equal run_id."""
    inputs = fingerprint(sequences=manifest.fingerprint, vocabulary=manifest.vocabulary_version)
    return f"{manifest.as_of:%Y%m%dT%H%M%SZ}-{model_version}-{inputs[:8]}"


def record_run(spark: SparkSession, run: Run, root: str) -> None:
    """Add the run to RUNS; again, it changes nothing."""
    values = [tuple(asdict(run)[name] for name in RUNS.column_names)]
    types = ", ".join(f"{name} {kind.simpleString()}" for name, kind in column_types(RUNS).items())
    row = local_frame(spark, values, types).coalesce(1)
    write_table(row, RUNS, root, mode="append", made_from=run.run_id, once=run.run_id)


def mend_runs(spark: SparkSession, latest: Contract, root: str) -> str | None:
    """Record the newest run of the latest table, if whoever published it was killed before; returns its run_id then."""
    noted = last_commit_notes(spark, latest, root).get("numbers", {}).get("run")
    if noted is None:
        return None
    run = run_from_json(noted)
    if is_recorded(spark, run.run_id, root):
        return None
    record_run(spark, run, root)
    return run.run_id


def is_recorded(spark: SparkSession, run_id: str, root: str) -> bool:
    """True where RUNS has the run: all of it was published."""
    return (
        table_exists(spark, RUNS, root) and not read_table(spark, RUNS, root).where(F.col("run_id") == run_id).isEmpty()
    )


def last_as_of(spark: SparkSession, root: str, *, before: datetime) -> datetime | None:
    """The newest as_of of any run, strictly before a time (UTC); None where there is none."""
    if not table_exists(spark, RUNS, root):
        return None
    earlier = read_table(spark, RUNS, root).where(F.col("as_of") < F.lit(before))
    row = earlier.agg(F.unix_micros(F.max("as_of")).alias("micros")).first()
    return None if row is None or row["micros"] is None else datetime.fromtimestamp(row["micros"] / 1_000_000, tz=UTC)


def run_before(
    spark: SparkSession, root: str, *, as_of: datetime, model_version: str, kind: Kind | None = None
) -> Run | None:
    """The run of this model with the newest as_of up to `as_of`; of several, the one that saw the newest events.

    `kind`: only runs of this kind.
    """
    if not table_exists(spark, RUNS, root):
        return None
    runs = read_table(spark, RUNS, root).where(
        (F.col("as_of") <= F.lit(as_of)) & (F.col("model_version") == model_version)
    )
    runs = runs if kind is None else runs.where(F.col("kind") == kind)
    newest_first = ("as_of", "events_version", "profiles_version", "run_id")
    row = runs.withColumn("as_of", F.unix_micros("as_of")).orderBy(*(F.desc(name) for name in newest_first)).first()
    if row is None:
        return None
    return Run(**{**row.asDict(), "as_of": datetime.fromtimestamp(row["as_of"] / 1_000_000, tz=UTC)})
