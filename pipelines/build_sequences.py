"""Step 2: events -> sequences, with the vocabulary and scaling that a model is trained on."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.disk import Keep, kept_on_disk
from caspr_spark.errors import CasprError
from caspr_spark.events.states import known_events, tells_newest
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import (
    SequenceManifest,
    read_manifest,
    sequences_folder,
    write_manifest,
)
from caspr_spark.metrics import write_metrics
from caspr_spark.runs import Run, run_before
from caspr_spark.sequences.assemble import customer_sequences, with_ids, with_set_ids
from caspr_spark.sequences.files import has_manifest, remove_other_data, write_files
from caspr_spark.sequences.timeline import is_held_out, newest_events, visible_events, with_time_parts
from caspr_spark.sequences.touched import stale_customers, touched_customers
from caspr_spark.tables import (
    changed_rows,
    is_missing_file,
    last_commit_notes,
    read_table,
    table_exists,
    table_version,
)
from pipelines.contracts import event_contract, profile_contract
from pipelines.customer_states import of_customers, states_in_step
from pipelines.fit import present_fit, write_fit
from pipelines.known_profiles import known_profiles
from pipelines.latest_vectors import latest_vectors
from pipelines.summary import Summary
from schemas.vocabulary import SCALING


def build_sequences(
    spark: SparkSession, config: Config, as_of: datetime, *, fit_vocabulary: bool | None = None
) -> Summary:
    """Write the sequences as of `as_of`; where `fit_vocabulary`, grow the vocabulary and fit the scaling first.

    By default they are fitted only where there are none. An id never changes its meaning: a model in use goes on
    reading the sequences of a vocabulary that grew from its own.

    Raises:
        CasprError: there are no events before `as_of`.
        UnsafeError: the vocabulary is not the one that the scaling was fitted with.
    """
    folder = sequences_folder(config.root, as_of)
    fit = fit_vocabulary if fit_vocabulary is not None else not table_exists(spark, SCALING, config.root)
    inputs = _inputs(spark, config, as_of)
    if has_manifest(folder):
        manifest = read_manifest(folder)
        fitted = last_commit_notes(spark, SCALING, config.root).get("numbers", {})
        is_current = (manifest.fingerprint, manifest.vocabulary_version) == (inputs, fitted.get("vocabulary_version"))
        if is_current and (not fit or fitted["inputs"] == inputs):
            return Summary("sequences", int(manifest.lineage["events"]), manifest.rows, changed=False)

    if fit:
        events, profiles = _training(spark, config, as_of)
        write_fit(spark, config, events=events, profiles=profiles, made_from=inputs)
    return _write_sequences(
        spark,
        config,
        as_of,
        inputs=inputs,
        vocabulary_note="fitted" if fit else "as it was",
        lineage=sequence_versions(spark, config),
    )


def refresh_sequences(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    previous: Mapping[str, Run | None],
    everybody: bool = False,
) -> Summary:
    """Write the sequences as of `as_of` of the customers who were touched since the previous runs, or of all of them.

    `previous`: model_version -> the run that its vectors go on from; None for a model that begins with everybody. The
    manifest names the models for which somebody was touched; where there is none, nothing is written. The summary
    counts customers: those looked at, and those who have a sequence.
    Touched are those whose events or profile differ from what the previous run saw, and those whose vector is older
    than `refresh.max_age_days`.

    Raises:
        UnsafeError: the vocabulary is not the one that the scaling was fitted with.
    """
    folder = sequences_folder(config.root, as_of)
    versions = sequence_versions(spark, config)
    inputs = fingerprint(
        **versions,
        previous={model: run and run.run_id for model, run in previous.items()},
        everybody=everybody,
        as_of=as_of.isoformat(),
        sequences=config.sequences.model_dump(),
        max_age_days=config.refresh.max_age_days,
        program=__version__,
    )
    if has_manifest(folder) and (manifest := read_manifest(folder)).fingerprint == inputs:
        return Summary("sequences", int(manifest.lineage["touched"]), manifest.rows, changed=False)
    with kept_on_disk() as keep:
        due = due_customers(spark, config, as_of, previous, versions, keep, everybody=everybody)
        if not due:
            return Summary("sequences", 0, 0, ("no customer was touched: nothing to do",), changed=False)
        customers = keep(reduce(DataFrame.union, due.values()).distinct())
        num_customers = customers.count()
        touched = folder / f"touched-{inputs}"
        customers.coalesce(1).write.mode("overwrite").parquet(str(touched))
        written = _write_sequences(
            spark,
            config,
            as_of,
            customers=customers,
            inputs=inputs,
            vocabulary_note="as it was",
            touched=touched.name,
            previous_runs={model: run.run_id if (run := previous[model]) else "" for model in due},
            lineage={**versions, "touched": num_customers},
        )
        return replace(written, rows_in=num_customers)


def due_customers(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    previous: Mapping[str, Run | None],
    versions: dict[str, int],
    keep: Keep,
    *,
    everybody: bool = False,
) -> dict[str, DataFrame]:
    """model_version -> customer_id of those whose sequence a refresh makes again, for the models that have any.

    Without a previous run of a model, with `everybody`, and where what changed since was vacuumed or erased, these are
    all customers.
    """

    def due(is_everybody: bool) -> dict[str, DataFrame]:
        looked_at = {
            model: keep(_customers_to_look_at(spark, config, as_of, run, versions, is_everybody, model))
            for model, run in previous.items()
        }
        return {model: customers for model, customers in looked_at.items() if not customers.isEmpty()}

    try:
        return due(everybody)
    except Exception as error:
        if not is_missing_file(error):
            raise
        return due(True)


def _customers_to_look_at(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    previous: Run | None,
    versions: dict[str, int],
    everybody: bool,
    model: str,
) -> DataFrame:
    events = read_table(spark, event_contract(config), config.root)
    latest = latest_vectors(spark, config.root, model)
    if everybody or previous is None:
        return events.select("customer_id").union(latest.select("customer_id")).distinct()
    touched = touched_customers(
        events=events,
        changed_events=changed_rows(
            spark,
            event_contract(config),
            config.root,
            after=previous.events_version,
            until=versions["events_version"],
        ),
        profiles=read_table(spark, profile_contract(config), config.root),
        changed_profiles=changed_rows(
            spark,
            profile_contract(config),
            config.root,
            after=previous.profiles_version,
            until=versions["profiles_version"],
        ),
        since=previous.as_of,
        as_of=as_of,
    )
    too_old = []
    if config.refresh.max_age_days is not None:
        too_old.append(as_of - timedelta(days=config.refresh.max_age_days))
    full = run_before(spark, config.root, as_of=as_of, model_version=previous.model_version, kind="full")
    if full is not None:  # whoever has events got a vector then; the others are to be removed
        too_old.append(full.as_of)
    if previous.kind == "full":  # also those with a vector as of the same time, of a run before that one
        is_of_another = (F.col("as_of") == F.lit(previous.as_of)) & (F.col("run_id") != previous.run_id)
        touched = touched.union(latest.where(is_of_another).select("customer_id")).distinct()
    return touched.union(stale_customers(latest, before=max(too_old))).distinct() if too_old else touched


def _events_to_show(
    spark: SparkSession, config: Config, as_of: datetime, customers: DataFrame | None, keep: Keep
) -> DataFrame:
    """Events before `as_of` of these customers (None: all): of each at least the newest `sequences.max_events`."""
    contract = event_contract(config)
    events = visible_events(of_customers(customers, read_table(spark, contract, config.root)), as_of=as_of)
    states = states_in_step(spark, config, customers=customers)
    if states is None:
        return events
    is_told = tells_newest(as_of=F.lit(as_of), max_events=config.sequences.max_events)
    states = states.withColumn("is_told", is_told)
    if customers is not None:
        states = keep(states)
    told = visible_events(known_events(states.where("is_told"), contract), as_of=as_of)
    others = states.where("not is_told").select("customer_id")
    return told.unionByName(of_customers(others, events))


def _training(spark: SparkSession, config: Config, as_of: datetime) -> tuple[DataFrame, DataFrame]:
    """Events and profiles as of a time of the customers who are not held out."""
    held_out = is_held_out(seed=config.seed, validation_share=config.sequences.validation_share)
    events = visible_events(read_table(spark, event_contract(config), config.root), as_of=as_of)
    training = _with_time_parts(config, events).where(~held_out)
    known_customers = training.select("customer_id").distinct()
    profiles = known_profiles(spark, config, as_of).join(known_customers, on="customer_id", how="left_semi")
    return training, profiles


def _with_time_parts(config: Config, events: DataFrame) -> DataFrame:
    return with_time_parts(events, parts=config.sequences.time_parts, zone=config.sequences.time_zone)


def _write_sequences(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    inputs: str,
    vocabulary_note: str,
    customers: DataFrame | None = None,
    touched: str | None = None,
    previous_runs: Mapping[str, str] | None = None,
    lineage: Mapping[str, str | int],
) -> Summary:
    """Assemble the customers' sequences and flip the folder's manifest to them."""
    folder = sequences_folder(config.root, as_of)
    vocabulary, fit = present_fit(spark, config)
    layout = fit.layout
    categorical = [attribute.name for attribute in layout.categorical]
    held_out = is_held_out(seed=config.seed, validation_share=config.sequences.validation_share)
    split = F.when(held_out, "validation").otherwise("training").alias("split")
    with kept_on_disk() as keep:
        events = newest_events(
            _events_to_show(spark, config, as_of, customers, keep), max_events=config.sequences.max_events
        )
        newest = keep(_with_time_parts(config, events))
        with_event_ids = with_ids(newest, vocabulary, attributes=categorical)
        with_event_ids = with_set_ids(
            with_event_ids, vocabulary, max_values={a.name: a.max_values for a in layout.sets}
        )
        profiles = known_profiles(spark, config, as_of, customers=customers)
        with_profile_ids = with_ids(profiles, vocabulary, attributes=[a.name for a in layout.profile_categorical])
        sequences = customer_sequences(with_event_ids, with_profile_ids, layout=layout).select("*", split)
        counts = newest.groupBy(split).agg(
            F.count_distinct("customer_id").alias("customers"), F.count(F.lit(1)).alias("events")
        )
        counted = {row["split"]: row for row in counts.collect()}
        if not counted and touched is None:
            raise CasprError(
                f"no event before {as_of:%Y-%m-%dT%H:%M:%SZ} in {config.root}/events; choose a later --as-of"
            )
        num_events = sum(row["events"] for row in counted.values())
        files = write_files(
            sequences,
            folder,
            customers_per_row_group=config.sequences.customers_per_row_group,
            num_customers={split: row["customers"] for split, row in counted.items()},
            seed=config.seed,
        )
    manifest = SequenceManifest(
        as_of=as_of,
        fingerprint=inputs,
        **dict(fit),
        files=files,
        lineage={
            "events": num_events,
            "program": __version__,
            **lineage,
        },
        touched=touched,
        previous_runs=dict(previous_runs or {}),
    )
    if manifest.rows != sum(row["customers"] for row in counted.values()):
        raise CasprError(
            f"{folder}: {manifest.rows} customers were written, {counted} were found; nothing was published"
        )
    write_manifest(manifest, folder)
    remove_other_data(folder, manifest)
    metrics = {("customers", split): row["customers"] for split, row in counted.items()} | {("events", ""): num_events}
    write_metrics(spark, metrics, config.root, as_of=as_of, run_id="", stage="sequences")
    note = f"{manifest.rows:,} customers, {len(files)} files; vocabulary {vocabulary_note}"
    return Summary("sequences", num_events, manifest.rows, (note,))


def sequence_versions(spark: SparkSession, config: Config) -> dict[str, int]:
    """Newest versions of the tables that the sequences are made of."""
    return {
        "events_version": table_version(spark, event_contract(config), config.root),
        "profiles_version": table_version(spark, profile_contract(config), config.root),
    }


def _inputs(spark: SparkSession, config: Config, as_of: datetime) -> str:
    events = last_commit_notes(spark, event_contract(config), config.root)
    profiles = last_commit_notes(spark, profile_contract(config), config.root)
    return fingerprint(
        events=events.get("made_from") or events.get("version"),
        profiles=profiles.get("made_from") or profiles.get("version"),
        as_of=as_of.isoformat(),
        sequences=config.sequences.model_dump(),
        attributes=[config.event_attributes, config.profile_attributes],
        seed=config.seed,
        program=__version__,
    )
