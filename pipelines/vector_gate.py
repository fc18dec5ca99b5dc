"""The gate before publishing: a run's vectors judged by their numbers, and by those of what they were made of."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.gate import declared_verdicts
from caspr_spark.manifest import SequenceManifest, sequences_folder
from caspr_spark.monitor.volume import known_customers, unknown_counts
from caspr_spark.publish.gates import COVERAGE, SHARE_UNKNOWN, gate_numbers
from caspr_spark.registry import checkpoint_folder, read_model
from caspr_spark.sequences.known import known_sequences
from caspr_spark.tables import read_table, table_exists
from pipelines.contracts import event_contract
from pipelines.gate_run import GateRun

_RETRAIN = "what was published before is still served; retrain, or embed again, then publish, or change publish.gate"


def take_vectors(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    health: Mapping[str, Any],
    manifest: SequenceManifest,
    num_promised: int,
    model_version: str,
) -> list[str]:
    """Judge the vectors of a run, of which `health` is the row of `vector_health`; returns lines that warn.

    `num_promised`: customers of the sequences, but for those that could not be scored.

    Raises:
        GateError: an expectation declared as `stop` failed.
    """
    gate = GateRun(config, as_of, f"publish-{model_version}")
    asked_for = {str(declared.arguments.get("column")) for declared in config.publish.gate.values()}
    measured = {}
    if SHARE_UNKNOWN in asked_for:
        measured[SHARE_UNKNOWN] = _share_unknown(spark, config.root, as_of, manifest, model_version)
    if COVERAGE in asked_for:
        measured[COVERAGE] = _coverage(spark, config, as_of, manifest, health["num_rows"])
    numbers = gate_numbers(health, num_promised=num_promised, measured=measured)
    gate.take(
        declared_verdicts(numbers, gate=config.publish.gate, section="publish", noun="vectors"),
        so=_RETRAIN,
    )
    return gate.notes


def _share_unknown(
    spark: SparkSession, root: str, as_of: datetime, manifest: SequenceManifest, model_version: str
) -> float | None:
    """As the model reads the sequences; None where they have no values with ids."""
    layout = read_model(checkpoint_folder(root, model_version)).layout
    if not manifest.files or not (layout.categorical or layout.sets or layout.profile_categorical):
        return None
    counts = unknown_counts(known_sequences(spark, sequences_folder(root, as_of), manifest, layout), layout)
    found = counts.agg(F.try_divide(F.sum("num_unknown"), F.sum("num_values"))).first()
    return None if found is None else found[0]


def _coverage(
    spark: SparkSession, config: Config, as_of: datetime, manifest: SequenceManifest, num_rows: int
) -> float | None:
    """Of a full build; a refresh does not read the events for the few customers that it is of."""
    if manifest.kind != "full" or not table_exists(spark, event_contract(config), config.root):
        return None
    num_known = known_customers(read_table(spark, event_contract(config), config.root), as_of=as_of).count()
    return num_rows / num_known if num_known else None
