"""The Spark builder against the oracle on random customers, and what a rerun, a kill and a second fit leave."""

import math
import shutil
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import pipelines.build_sequences as step
from caspr_spark.config import Config
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder
from caspr_spark.session import local_frame
from caspr_spark.tables import last_commit_notes, read_table, write_table
from pipelines.build_sequences import build_sequences
from pipelines.contracts import event_contract
from schemas.vocabulary import SCALING, VOCABULARY
from tests.sequences import oracle
from tests.sequences.oracle import Row
from tests.sequences.random_bank import (
    AS_OF,
    SETTINGS,
    bank_config,
    random_events,
    random_profiles,
    write_bank,
)

SEED, NUM_CUSTOMERS = 20240601, 60
random = Random(SEED)
EVENTS, PROFILES = random_events(random, NUM_CUSTOMERS), random_profiles(random, NUM_CUSTOMERS)


@pytest.fixture(scope="module")
def config(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = bank_config(tmp_path_factory.mktemp("bank"))
    write_bank(spark, config, EVENTS, PROFILES)
    build_sequences(spark, config, AS_OF)
    return config


def sequence_rows(config: Config) -> dict[str, Row]:
    """Customer -> columns, of all files of the manifest; every customer once."""
    folder = sequences_folder(config.root, AS_OF)
    rows = [row for file in read_manifest(folder).files for row in pq.read_table(folder / file.path).to_pylist()]
    by_customer = {row.pop("customer_id"): row for row in rows}
    assert len(by_customer) == len(rows)
    return by_customer


def held_out(config: Config) -> set[str]:
    folder = sequences_folder(config.root, AS_OF)
    files = read_manifest(folder).of_split("validation")
    return {customer for file in files for customer in pq.read_table(folder / file.path)["customer_id"].to_pylist()}


def fitted_ids(spark: SparkSession, config: Config) -> dict[str, dict[str, int]]:
    ids: dict[str, dict[str, int]] = {}
    for row in read_table(spark, VOCABULARY, config.root).collect():
        ids.setdefault(row["attribute"], {})[row["value"]] = row["id"]
    return ids


def training_part(without: set[str]) -> tuple[list[Row], dict[str, Row]]:
    events = [event for event in oracle.visible(EVENTS, SETTINGS) if event["customer_id"] not in without]
    customers = {event["customer_id"] for event in events}
    return events, {customer: oracle.profile_as_of(PROFILES, customer, SETTINGS) for customer in customers}


def test_f53_f56_all_arrays_equal_the_oracle(config: Config) -> None:
    events, profiles = training_part(held_out(config))
    ids = oracle.vocabulary(events, profiles, SETTINGS)

    same_sequences(sequence_rows(config), oracle.sequences(EVENTS, PROFILES, ids, SETTINGS))


def test_f39_without_an_event_before_as_of_there_is_no_row_and_with_one_there_is(config: Config) -> None:
    num_visible = dict.fromkeys((row["customer_id"] for row in EVENTS + PROFILES), 0)
    for event in oracle.visible(EVENTS, SETTINGS):
        num_visible[event["customer_id"]] += 1
    rows = sequence_rows(config)

    assert {customer for customer, number in num_visible.items() if number == 0}.isdisjoint(rows)
    alone = {customer for customer, number in num_visible.items() if number == 1}
    assert len(alone) > 1
    assert {rows[customer]["num_events"] for customer in alone} == {1}
    assert rows.keys() == {customer for customer, number in num_visible.items() if number}


def same_sequences(found: dict[str, Row], wanted: dict[str, Row]) -> None:
    assert found.keys() == wanted.keys(), f"seed {SEED}"
    for customer, row in wanted.items():
        for name, values in row.items():
            assert comparable(found[customer][name]) == comparable(values), f"seed {SEED}, {customer}, {name}"


def comparable(values: Any) -> Any:
    """Floats as float32 holds them, NaN as a word."""
    if not isinstance(values, list) or not any(isinstance(value, float) for value in values):
        return values
    return ["nan" if math.isnan(value) else float(np.float32(value)) for value in values]


def test_vocabulary_is_the_oracles_and_held_out_customers_do_not_enter_it(spark: SparkSession, config: Config) -> None:
    without = held_out(config)

    assert 5 < len(without) < NUM_CUSTOMERS / 2
    ids = oracle.vocabulary(*training_part(without), SETTINGS)
    assert fitted_ids(spark, config) == {attribute: values for attribute, values in ids.items() if values}
    assert ids != oracle.vocabulary(*training_part(set()), SETTINGS)  # they would have changed it


def test_scaling_is_the_oracles_and_is_in_the_manifest(spark: SparkSession, config: Config) -> None:
    events, profiles = training_part(held_out(config))
    wanted = oracle.scaling(events, profiles, oracle.vocabulary(events, profiles, SETTINGS), SETTINGS)

    table = {row["attribute"]: tuple(row)[1:] for row in read_table(spark, SCALING, config.root).collect()}
    manifest = read_manifest(sequences_folder(config.root, AS_OF))

    assert table.keys() == wanted.keys() == manifest.scaling.keys()
    for name, row in wanted.items():
        assert table[name] == pytest.approx(row, abs=1e-9), name
        assert tuple(manifest.scaling[name].model_dump().values()) == table[name]


def test_manifest_says_what_the_files_hold(config: Config) -> None:
    folder = sequences_folder(config.root, AS_OF)
    manifest = read_manifest(folder)

    for file in manifest.files:
        metadata = pq.read_metadata(folder / file.path)
        assert (file.rows, file.row_groups) == (metadata.num_rows, metadata.num_row_groups) == (metadata.num_rows, 1)
        assert (file.bytes, file.sha256) == ((folder / file.path).stat().st_size, file_sha256(folder / file.path))
        assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert manifest.rows == len(sequence_rows(config))
    assert manifest.lineage["events"] == sum(row["num_events"] for row in sequence_rows(config).values())
    layout = manifest.layout
    assert [one.name for one in layout.categorical] == SETTINGS.all_categorical
    assert {one.name: one.max_values for one in layout.sets} == SETTINGS.sets
    assert list(layout.numerical) == SETTINGS.numerical
    assert [one.name for one in layout.profile_categorical] == list(SETTINGS.profile_categorical)
    assert {path.parts[0] for path in map(Path, (file.path for file in manifest.files))} == {
        path.name for path in folder.iterdir() if path.is_dir()
    }


def test_there_is_a_row_group_for_so_many_customers(config: Config) -> None:
    manifest = read_manifest(sequences_folder(config.root, AS_OF))

    for split in ("training", "validation"):
        rows = [file.rows for file in manifest.of_split(split)]
        wanted = math.ceil(sum(rows) / config.sequences.customers_per_row_group)
        assert wanted - 1 <= len(rows) <= wanted  # by hash: one may have stayed empty, and they differ in size
        assert max(rows) <= 2 * config.sequences.customers_per_row_group


def test_a_rerun_changes_nothing(spark: SparkSession, config: Config) -> None:
    folder = sequences_folder(config.root, AS_OF)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    for fit in (None, True, False):
        assert not build_sequences(spark, config, AS_OF, fit_vocabulary=fit).changed

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert last_commit_notes(spark, VOCABULARY, config.root)["version"] == 0


def test_f51_f58_order_partitions_and_later_rows_change_nothing(
    spark: SparkSession, config: Config, tmp_path: Path
) -> None:
    later = Random(SEED + 1)
    future = [
        event | {"event_time": AS_OF + timedelta(microseconds=later.randrange(10**12)), "channel": "future"}
        for event in random_events(later, NUM_CUSTOMERS, prefix="f") + random_events(later, NUM_CUSTOMERS)
    ]
    promised = [
        profile | {"valid_from_time": AS_OF, "region": "future"}
        for profile in PROFILES
        if profile["profile"] == "accounts"
    ]
    other = bank_config(tmp_path)
    write_bank(spark, other, (EVENTS + future)[::-1], (PROFILES + promised)[::-1], partitions=3)
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        build_sequences(spark, other, AS_OF)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")

    assert str(sequence_rows(other)) == str(sequence_rows(config))  # the order of the rows in the files too
    assert fitted_ids(spark, other) == fitted_ids(spark, config)
    assert same_but_files(other) == same_but_files(config)


def same_but_files(config: Config) -> Row:
    manifest = read_manifest(sequences_folder(config.root, AS_OF))
    return manifest.model_dump(include={"layout", "vocabulary_version", "as_of", "lineage"})


def test_a_killed_run_leaves_the_old_files_and_a_second_fit_keeps_the_ids(
    spark: SparkSession, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(config.root, tmp_path / "root")
    mine = bank_config(tmp_path)
    folder = sequences_folder(mine.root, AS_OF)
    old, old_ids = (folder / "manifest.json").read_bytes(), fitted_ids(spark, mine)
    fresh = [
        event
        | {"channel": "new" if event["channel"] is None else event["channel"], "event_id": f"{event['event_id']}b"}
        for event in EVENTS
    ]
    events = read_table(spark, event_contract(mine), mine.root)
    more = spark.createDataFrame([tuple(event[name] for name in events.columns) for event in fresh], events.schema)
    write_table(more, event_contract(mine), mine.root, mode="append")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        build_sequences(spark, mine, AS_OF, fit_vocabulary=True)

    assert (folder / "manifest.json").read_bytes() == old
    for file in SequenceManifest.model_validate_json(old).files:
        assert file_sha256(folder / file.path) == file.sha256
    monkeypatch.undo()
    assert build_sequences(spark, mine, AS_OF, fit_vocabulary=True).changed
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1  # those of the killed run are gone too

    new_ids = fitted_ids(spark, mine)
    for attribute, values in old_ids.items():
        assert values.items() <= new_ids[attribute].items()
        added = sorted(set(new_ids[attribute].values()) - set(values.values()))
        assert added == list(range(max(values.values()) + 1, max(values.values()) + 1 + len(added)))
    assert new_ids["channel"]["new"] == max(new_ids["channel"].values())
    same_sequences(sequence_rows(mine), oracle.sequences(EVENTS + fresh, PROFILES, new_ids, SETTINGS))


@pytest.mark.slow
def test_f38_a_customer_with_100_000_events(spark: SparkSession, tmp_path: Path) -> None:
    config = bank_config(tmp_path, max_events=64, min_count=1, validation_share=0.0)
    template = EVENTS[0] | {"customer_id": "busy", "channel": "app", "source": "shop"}
    template |= dict.fromkeys(("session_id", "tags", "amount", "store", "flags", "score"))
    contract = event_contract(config)
    one = local_frame(spark, [tuple(template[name] for name in contract.column_names)], contract.ddl)
    shuffled = spark.range(100_000).select(F.col("id").alias("n")).orderBy(F.xxhash64("n"))
    busy = one.drop("event_time", "event_id", "amount").crossJoin(shuffled)
    busy = busy.select(
        "*",
        F.timestamp_micros(F.lit(1_700_000_000_000_000) + F.floor(F.col("n") / 7)).alias("event_time"),  # ties of 7
        F.concat(F.lit("shop:"), F.lpad("n", 6, "0")).alias("event_id"),
        F.col("n").cast("double").alias("amount"),
    ).select(*contract.column_names)
    write_bank(spark, config, EVENTS[:20], PROFILES)
    write_table(busy, contract, config.root, mode="append")

    build_sequences(spark, config, AS_OF)

    row = sequence_rows(config)["busy"]
    assert row["num_events"] == 64
    assert row["event_times"] == [1_700_000_000_000_000 + n // 7 for n in range(100_000 - 64, 100_000)]
    assert row["numerical"][::2] == [float(n) for n in range(100_000 - 64, 100_000)]
