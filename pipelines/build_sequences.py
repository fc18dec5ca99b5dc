"""Step 2: events -> sequences, with the vocabulary and scaling that a model is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.disk import Keep, kept_on_disk
from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.events.states import known_events, tells_newest
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import (
    CategoricalAttribute,
    Fit,
    Layout,
    Scaling,
    SequenceManifest,
    SetAttribute,
    read_manifest,
    sequences_folder,
    write_manifest,
)
from caspr_spark.metrics import write_metrics
from caspr_spark.runs import Run, run_before
from caspr_spark.sequences.assemble import customer_sequences, with_ids, with_set_ids
from caspr_spark.sequences.files import has_manifest, remove_other_data, write_files
from caspr_spark.sequences.timeline import is_held_out, newest_events, profiles_as_of, visible_events, with_time_parts
from caspr_spark.sequences.touched import stale_customers, touched_customers
from caspr_spark.sequences.vocabulary import (
    categorical_scaling,
    empty_vocabulary,
    grown_vocabulary,
    numerical_scaling,
    value_counts,
    vocabulary_hash,
    vocabulary_sizes,
)
from caspr_spark.tables import (
    changed_rows,
    is_missing_file,
    last_commit_notes,
    read_table,
    table_exists,
    table_version,
    write_table,
)
from pipelines.contracts import event_contract, profile_contract
from pipelines.customer_states import of_customers, states_in_step
from pipelines.latest_vectors import latest_vectors
from pipelines.summary import Summary
from schemas.vocabulary import FIRST_VALUE_ID, SCALING, VOCABULARY


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
        _fit(spark, config, as_of, inputs)
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


def _profiles(spark: SparkSession, config: Config, as_of: datetime, customers: DataFrame | None) -> DataFrame:
    """Profiles as of a time, of these customers (None: all)."""
    profile_of = {name: profile for profile, table in config.profiles.items() for name in table.attributes}
    rows = of_customers(customers, read_table(spark, profile_contract(config), config.root))
    return profiles_as_of(rows, as_of=as_of, attributes=profile_of)


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
        profiles = _profiles(spark, config, as_of, customers)
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


def _fit(spark: SparkSession, config: Config, as_of: datetime, inputs: str) -> None:
    held_out = is_held_out(seed=config.seed, validation_share=config.sequences.validation_share)
    events = visible_events(read_table(spark, event_contract(config), config.root), as_of=as_of)
    training = _with_time_parts(config, events).where(~held_out)
    known_customers = training.select("customer_id").distinct()
    training_profiles = _profiles(spark, config, as_of, None).join(known_customers, on="customer_id", how="left_semi")
    names = _names(config)
    with kept_on_disk() as keep:
        counts = keep(
            value_counts(training, categorical=names["categorical"], sets=names["sets"]).unionAll(
                value_counts(training_profiles, categorical=names["profile_categorical"], sets=[])
            )
        )
        exists = table_exists(spark, VOCABULARY, config.root)
        known = read_table(spark, VOCABULARY, config.root) if exists else empty_vocabulary(spark)
        grown = grown_vocabulary(known, counts, min_count=config.sequences.min_count)
        write_table(grown, VOCABULARY, config.root, made_from=inputs)
        vocabulary = read_table(spark, VOCABULARY, config.root)
        scaling = keep(
            numerical_scaling(training, numerical=names["numerical"])
            .unionAll(numerical_scaling(training_profiles, numerical=names["profile_numerical"]))
            .unionAll(
                categorical_scaling(training, counts, vocabulary, categorical=names["categorical"], sets=names["sets"])
            )
            .unionAll(
                categorical_scaling(
                    training_profiles, counts, vocabulary, categorical=names["profile_categorical"], sets=[]
                )
            )
        )
        before = last_commit_notes(spark, SCALING, config.root).get("numbers", {}) if exists else {}
        version = _version(vocabulary, scaling.collect())
        older = [before["vocabulary_version"], *before["grown_from"]] if before else []
        numbers = {
            "vocabulary_version": version,
            "grown_from": [one for one in older if one != version],
            "num_ids": vocabulary_sizes(vocabulary),
            "inputs": inputs,
        }
        write_table(scaling, SCALING, config.root, made_from=inputs, numbers=numbers)


def present_fit(spark: SparkSession, config: Config) -> tuple[DataFrame, Fit]:
    """The vocabulary, and what it and the scaling make of events.

    The scaling's commit ends a fit: ids that an interrupted one has added to the vocabulary are left out.

    Raises:
        UnsafeError: the vocabulary or the scaling is not what was fitted.
    """
    notes = last_commit_notes(spark, SCALING, config.root).get("numbers", {})
    num_ids = notes.get("num_ids", {})
    limit = F.coalesce(*[F.when(F.col("attribute") == name, size) for name, size in num_ids.items()], F.lit(0))
    vocabulary = read_table(spark, VOCABULARY, config.root).where(F.col("id") < limit)
    rows = read_table(spark, SCALING, config.root).collect()
    if _version(vocabulary, rows) != notes.get("vocabulary_version"):
        raise UnsafeError(
            f"{config.root}: the tables 'vocabulary' and 'scaling' are not those that were fitted together; restore "
            "them, or run build_sequences --fit-vocabulary and pretrain again"
        )
    scaling = {row["attribute"]: Scaling(**{k: v for k, v in row.asDict().items() if k != "attribute"}) for row in rows}
    fit = Fit(
        layout=_layout(config, num_ids),
        vocabulary_version=notes["vocabulary_version"],
        grown_from=tuple(notes["grown_from"]),
        scaling=scaling,
    )
    return vocabulary, fit


def _version(vocabulary: DataFrame, scaling: Sequence[Row]) -> str:
    """Content hash of both."""
    return fingerprint(vocabulary=vocabulary_hash(vocabulary), scaling=sorted(tuple(row) for row in scaling))


def _with_time_parts(config: Config, events: DataFrame) -> DataFrame:
    return with_time_parts(events, parts=config.sequences.time_parts, zone=config.sequences.time_zone)


def _names(config: Config) -> dict[str, list[str]]:
    """Attribute names by the array they go to. The source and the calendar parts are categorical attributes too."""

    def of_kind(attributes: dict[str, Any], kind: str) -> list[str]:
        return [name for name, attribute in attributes.items() if attribute.kind == kind]

    return {
        "categorical": ["source", *config.sequences.time_parts, *of_kind(config.event_attributes, "categorical")],
        "sets": of_kind(config.event_attributes, "set"),
        "numerical": of_kind(config.event_attributes, "numerical"),
        "profile_categorical": of_kind(config.profile_attributes, "categorical"),
        "profile_numerical": of_kind(config.profile_attributes, "numerical"),
    }


def _layout(config: Config, sizes: dict[str, int]) -> Layout:
    names = _names(config)

    def categorical(attributes: list[str]) -> tuple[CategoricalAttribute, ...]:
        return tuple(CategoricalAttribute(name=name, num_ids=sizes.get(name, FIRST_VALUE_ID)) for name in attributes)

    return Layout(
        max_events=config.sequences.max_events,
        categorical=categorical(names["categorical"]),
        sets=tuple(
            SetAttribute(
                name=name,
                num_ids=sizes.get(name, FIRST_VALUE_ID),
                max_values=config.event_attributes[name].max_values or 1,
            )
            for name in names["sets"]
        ),
        numerical=tuple(names["numerical"]),
        profile_categorical=categorical(names["profile_categorical"]),
        profile_numerical=tuple(names["profile_numerical"]),
    )
