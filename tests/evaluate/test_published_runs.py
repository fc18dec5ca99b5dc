"""Monitor, evaluate and report on one small lake, `published_lake`."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, DriftAlert, UnsafeError
from caspr_spark.evaluate import leaks
from caspr_spark.evaluate.significance import score_table
from caspr_spark.manifest import (
    read_manifest,
    sequences_folder,
    write_manifest,
)
from caspr_spark.runs import Run, record_run
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table, table_path, write_table
from pipelines import labelled_customers as asked_about
from pipelines.contracts import event_contract
from pipelines.evaluate_embeddings import evaluate_embeddings, task_score_table
from pipelines.labelled_customers import labelled_customers
from pipelines.monitor_embeddings import monitor_embeddings
from pipelines.write_report import write_report
from schemas.contract import Contract
from schemas.drift_metrics import DRIFT_METRICS
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS
from schemas.profile_metrics import PROFILE_METRICS
from schemas.run_metrics import RUN_METRICS
from schemas.task_scores import TASK_SCORES
from tests.evaluate.published_lake import (
    FIRST,
    SCRIPT,
    SECOND,
    publish,
    published_lake,
    run_rows,
    write_sequences,
)


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return published_lake(spark, tmp_path_factory.mktemp("lake"))


def metrics_of(spark: SparkSession, config: Config, as_of: datetime) -> dict[tuple[str, str], float]:
    table = read_table(spark, RUN_METRICS, config.root).where(
        (F.col("as_of") == F.lit(as_of)) & (F.col("stage") == "monitor")
    )
    return {(row["metric"], row["key"]): row["value"] for row in table.collect()}


def version(spark: SparkSession, contract: Contract, config: Config) -> Any:
    return DeltaTable.forPath(spark, table_path(contract, config.root)).history(1).collect()[0]["version"]


def with_monitor(config: Config, **settings: Any) -> Config:
    return config.model_copy(update={"monitor": config.monitor.model_copy(update=settings)})


def test_first_run_is_measured_without_a_verdict(spark: SparkSession, lake: Config) -> None:
    summary = monitor_embeddings(spark, lake, FIRST)
    assert summary.notes[-1] == "no customer has an older vector of this model, nothing to compare with"
    found = metrics_of(spark, lake, FIRST)
    assert (found["customers_embedded", ""], found["coverage", ""]) == (120, 1)
    assert found["unknown_share", "page"] == 0.25
    assert found["sequence_length", "p50"] == 2
    assert ("distance", "p50") not in found


def test_distances_of_the_second_run_and_no_commit_on_a_rerun(spark: SparkSession, lake: Config) -> None:
    summary = monitor_embeddings(spark, lake, SECOND)
    assert summary.changed
    assert "median cosine distance 0.0000 of 120 customers" in summary.notes[-1]
    found = metrics_of(spark, lake, SECOND)
    assert found["distance", "p50"] == pytest.approx(0, abs=1e-9)
    assert found["distance", "p75"] == pytest.approx(1)
    assert found["distance", "mean"] == pytest.approx(40 / 120)
    watched = (RUN_METRICS, PROFILE_METRICS, DRIFT_METRICS)
    before = [version(spark, contract, lake) for contract in watched]
    assert not monitor_embeddings(spark, lake, SECOND).changed
    assert [version(spark, contract, lake) for contract in watched] == before


def test_f81_drift_stops_only_where_it_is_configured_and_after_writing(spark: SparkSession, lake: Config) -> None:
    strict = with_monitor(lake, max_median_distance=0.0, on_drift="stop")
    run = run_rows(spark, SECOND + timedelta(days=1), turned=100, model="m1")
    publish(spark, lake, run, SECOND + timedelta(days=1))
    write_sequences(spark, lake, SECOND + timedelta(days=1))
    with pytest.raises(DriftAlert, match=r"median cosine distance 0\.5\d+.* above the limit of 0.*baseline_since"):
        monitor_embeddings(spark, strict, SECOND + timedelta(days=1))
    assert metrics_of(spark, lake, SECOND + timedelta(days=1))["distance", "p75"] == pytest.approx(1)
    warned = monitor_embeddings(spark, with_monitor(strict, on_drift="warn"), SECOND + timedelta(days=1))
    assert any(note.startswith("drift: median cosine distance") for note in warned.notes)
    assert warned.notes[2] == "of 120 customers with an older vector, 120 have new events"
    few = monitor_embeddings(spark, with_monitor(strict, min_customers=121), SECOND + timedelta(days=1))
    assert "too few customers to judge (120 of at least 121)" in few.notes[-1]


def test_f58_events_after_the_cut_change_no_feature(spark: SparkSession, lake: Config) -> None:
    events = read_table(spark, event_contract(lake), lake.root)
    run = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, lake.root).where("run_id = 'm1-1008'")
    task = lake.evaluate.tasks["churn"]
    later = events.where(F.col("event_time") >= F.lit(SECOND)).withColumn("spend", F.col("spend") * 1000)
    planted = events.unionByName(later.withColumn("event_id", F.concat("event_id", F.lit("-again"))))
    with_them = labelled_customers(planted, run, task=task, cut=SECOND).drop("label")
    without = labelled_customers(events.where(F.col("event_time") < F.lit(SECOND)), run, task=task, cut=SECOND).drop(
        "label"
    )
    assert sorted(with_them.collect()) == sorted(without.collect())


def test_scores_are_written_once(spark: SparkSession, lake: Config) -> None:
    summary = evaluate_embeddings(spark, lake, SECOND)
    # 4 arms of 3 heads and the rule, 2 splits, 2 metrics; 3 counts a split; 2 of resampling for all but rfm
    num_scores = (4 * 3 + 1) * 2 * 2 + 3 * 2 + (3 * 3 + 1) * 2 * 2
    assert (summary.rows_in, summary.rows_out, summary.changed) == (120, num_scores, True)
    scores = task_score_table(spark, lake, SECOND)
    shares = scores[scores["metric"] == "positive_share"]["value"]
    assert shares.to_list() == pytest.approx([1 / 3, 1 / 3])
    assert len(score_table(scores)) == 2 * (3 * 4 + 1)
    before = version(spark, TASK_SCORES, lake)
    assert not evaluate_embeddings(spark, lake, SECOND).changed
    assert version(spark, TASK_SCORES, lake) == before


def test_the_values_that_come_next_are_ranked(spark: SparkSession, lake: Config) -> None:
    asked = lake.evaluate.tasks["churn"].model_copy(update={"kind": "next_values", "attribute": "tags"})
    ranked = lake.model_copy(update={"evaluate": lake.evaluate.model_copy(update={"tasks": {"tags": asked}})})
    summary = evaluate_embeddings(spark, ranked, SECOND)
    # 6 arms, 2 splits, 8 metrics; 3 counts a split; 2 of resampling for all but rfm
    assert (summary.rows_in, summary.rows_out) == (120, 6 * 2 * 8 + 3 * 2 + 5 * 8 * 2)
    scores = task_score_table(spark, ranked, SECOND)
    found = scores[(scores["task"] == "tags") & (scores["metric"] == "map_all")].groupby("arm")["value"].mean()
    assert found["rule"] > 0.99  # everybody has the same two tags on every visit
    assert not evaluate_embeddings(spark, ranked, SECOND).changed


def test_the_data_scientists_example_tells_what_the_vector_gives(lake: Config) -> None:
    """A third of the customers never come again; their last visit is older, which the features made by hand see."""
    script = Path(__file__).parents[2] / "docs" / "example" / "churn.py"
    options = ["--root", lake.root, "--source", "visits", "--cut", SECOND.isoformat()]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *arms = done.stdout.splitlines()
    assert first == "120 customers, 33.3% of whom stay away for 28 days"
    found = {line[:12].strip(): float(line.split()[-1]) for line in arms}
    assert found.keys() == {"made by hand", "vector", "both"}
    assert found["made by hand"] > 0.95


def test_task_whose_labels_are_not_known_yet_is_skipped(spark: SparkSession, lake: Config) -> None:
    distant = lake.evaluate.tasks["churn"].model_copy(update={"horizon_days": 60})
    asked = lake.model_copy(update={"evaluate": lake.evaluate.model_copy(update={"tasks": {"distant": distant}})})
    summary = evaluate_embeddings(spark, asked, SECOND)
    assert summary.notes == ("distant: skipped, the labels up to 2017-12-07 are not known yet",)
    assert not summary.changed


def with_task(config: Config, name: str, **changes: Any) -> Config:
    """Another task alone: churn with changes."""
    task = config.evaluate.tasks["churn"].model_copy(update=changes)
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"tasks": {name: task}})})


@pytest.mark.parametrize("days_after_the_cut", [0, 7, 14])
def test_f58_a_model_whose_pretraining_overlaps_a_label_window_is_refused(
    spark: SparkSession, lake: Config, days_after_the_cut: int
) -> None:
    """The labels of training and test customers alike are of the 14 days that begin at the cut."""
    card = Path(lake.root) / "checkpoints" / "m1" / "model.json"
    sound = card.read_text()
    trained_until = SECOND + timedelta(days=days_after_the_cut, seconds=1)
    card.write_text(json.dumps(json.loads(sound) | {"as_of": trained_until.isoformat()}))
    try:
        with pytest.raises(
            UnsafeError, match=f"trained on events up to {trained_until:%Y-%m-%d}T00:00:01.*after the cut"
        ):
            evaluate_embeddings(spark, lake, SECOND)
    finally:
        card.write_text(sound)


def test_f58_a_planted_feature_of_the_future_is_refused_by_its_name(
    spark: SparkSession, lake: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = asked_about.rfm_features

    def planted(events: Any, *, cut: datetime, **how: Any) -> Any:
        ahead = F.count_if(F.col("event_time") >= F.lit(cut)).cast("double").alias("num_events_ahead")
        of_customers = events.groupBy("customer_id").agg(ahead)
        return sound(events, cut=cut, **how).join(of_customers, on="customer_id", how="inner")

    peeking = with_task(lake, "peeking", active_days=27)
    monkeypatch.setattr(asked_about, "rfm_features", planted)
    # two thirds of the customers come again
    with pytest.raises(
        UnsafeError, match=r"of peeking at the cut .* these are others: num_events_ahead \(80 of 120\)\."
    ):
        evaluate_embeddings(spark, peeking, SECOND)
    assert "peeking" not in set(task_score_table(spark, peeking, SECOND)["task"])


def test_f58_planted_counts_of_values_to_come_are_refused(
    spark: SparkSession, lake: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = asked_about.value_counts

    def planted(events: Any, **how: Any) -> Any:
        return sound(events, **how).withColumn("num_before", F.col("num_before") + F.col("num_after"))

    monkeypatch.setattr(asked_about, "value_counts", planted)
    with pytest.raises(UnsafeError, match=r"of peeking .* these are others: num_before \("):
        evaluate_embeddings(spark, with_task(lake, "peeking", kind="next_values", attribute="tags"), SECOND)


def test_f58_an_event_at_the_cut_in_the_sequences_is_refused(spark: SparkSession, lake: Config) -> None:
    """The planted event stands between two that are older."""
    folder = sequences_folder(lake.root, SECOND)
    manifest = read_manifest(folder)
    cut = round(SECOND.timestamp() * 1_000_000)
    rows = [("planted", 3, [cut - 2, cut, cut - 1])]
    planted = local_frame(spark, rows, "customer_id string, num_events int, event_times array<bigint>")
    planted.coalesce(1).write.parquet(str(folder / "planted"))
    (part,) = (folder / "planted").glob("*.parquet")
    file = manifest.files[0].model_copy(update={"path": f"planted/{part.name}"})
    write_manifest(manifest.model_copy(update={"files": (*manifest.files, file)}), folder)
    try:
        with pytest.raises(UnsafeError, match=r"newest event of the sequences is of 2017-10-08T00:00:00\+00:00"):
            evaluate_embeddings(spark, lake, SECOND)
    finally:
        write_manifest(manifest, folder)


def test_f58_vectors_that_saw_an_event_at_the_cut_are_refused(spark: SparkSession, lake: Config) -> None:
    checkpoints = Path(lake.root) / "checkpoints"
    shutil.copytree(checkpoints / "m1", checkpoints / "m9")
    run = run_rows(spark, FIRST, turned=0, model="m9").withColumn(
        "last_event_time", F.when(F.col("customer_id") == "c007", F.lit(FIRST)).otherwise(F.col("last_event_time"))
    )
    write_table(run, CUSTOMER_EMBEDDING_HISTORY, lake.root, mode="append", once="m9-1001")
    with pytest.raises(UnsafeError, match="newest event of the vectors is of 2017-10-01"):
        evaluate_embeddings(spark, lake, FIRST, model_version="m9")


def test_a_feature_that_tells_the_label_alone_is_noted_every_time(
    spark: SparkSession, lake: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 40 who never come again have been away for five days, all others for less than one."""
    told = with_task(lake, "told", active_days=26)
    monkeypatch.setattr(leaks, "LEAST_OF_KIND", 40)
    first, again = evaluate_embeddings(spark, told, SECOND), evaluate_embeddings(spark, told, SECOND)
    note = "warning: told: rfm feature days_since_last alone tells the label (AUROC 1.000): is it known before the cut?"
    assert note in first.notes
    assert (first.changed, again.changed) == (True, False)
    assert again.notes == first.notes


def test_f100_report_escapes_what_customers_buy_and_is_written_once(spark: SparkSession, lake: Config) -> None:
    monitor_embeddings(spark, lake, SECOND)
    evaluate_embeddings(spark, lake, SECOND)
    assert write_report(spark, lake, SECOND).changed
    place = Path(lake.root) / "report" / "index.html"
    html = place.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (" in html
    assert html.count('<img src="data:image/') == 6
    assert re.findall("No picture[^<]*", html) == ["No picture: there is no run with a baseline yet."]
    assert "time_present 1" in html
    assert not write_report(spark, lake, SECOND).changed
    assert place.read_text() == html


def drift_rows(spark: SparkSession, config: Config, model: str) -> list[tuple[Any, ...]]:
    """What the monitor wrote of a model's vectors."""
    return sorted(
        tuple(row)
        for row in read_table(spark, DRIFT_METRICS, config.root).where(F.col("model_version") == model).collect()
    )


def test_f72_f83_a_new_model_is_not_compared_with_the_old(spark: SparkSession, lake: Config) -> None:
    run = run_rows(spark, SECOND, turned=0, model="m2")
    publish(spark, lake, run, SECOND, model="m2")
    write_table(run, EMBEDDINGS, lake.root)
    try:
        of_champion = drift_rows(spark, lake, "m1")
        notes = monitor_embeddings(spark, lake, SECOND, model_version="m2").notes
        assert "no customer has an older vector of this model" in notes[-1]
        assert "model m2 begins a new baseline" in notes[-2]
        assert drift_rows(spark, lake, "m2")
        assert drift_rows(spark, lake, "m1") == of_champion
        assert not monitor_embeddings(spark, lake, SECOND).changed  # nor is the champion's record another one now
        assert write_report(spark, lake, SECOND).changed
        models = (
            (Path(lake.root) / "report" / f"{SECOND:%Y%m%dT%H%M%SZ}.html").read_text().partition("<h2>Models</h2>")[2]
        )
        assert re.findall(r"<td>(champion|challenger)</td><td>(m\d)</td>", models) == [
            ("champion", "m1"),
            ("challenger", "m2"),
        ]
    finally:
        write_table(run_rows(spark, SECOND, turned=40, model="m1"), EMBEDDINGS, lake.root)
    assert re.search(r"the model before have a mean cosine of 0\.\d+ in 60 customers outside the fit", models)


def test_a_refresh_that_only_took_customers_out_has_nothing_to_judge(spark: SparkSession, lake: Config) -> None:
    as_of = SECOND + timedelta(days=30)
    folder = sequences_folder(lake.root, as_of)
    folder.mkdir(parents=True)
    manifest = read_manifest(sequences_folder(lake.root, SECOND))
    write_manifest(manifest.model_copy(update={"as_of": as_of, "files": (), "touched": "touched"}), folder)
    record_run(spark, Run("m1-gone", as_of, "refresh", "m1", None, 1, 1, num_removed=3), lake.root)
    summary = monitor_embeddings(spark, lake, as_of)
    assert (summary.rows_in, summary.notes[0]) == (0, "0 customers have a new vector")
    assert "too few customers to judge (0 of at least 30)" in summary.notes[-1]


def test_unpublished_as_of_is_an_error(spark: SparkSession, lake: Config) -> None:
    with pytest.raises(CasprError, match="no run of model m1 as of 2017-01-01"):
        monitor_embeddings(spark, lake, datetime(2017, 1, 1, tzinfo=UTC))


@pytest.mark.slow
def test_f81_a_refresh_whose_pages_are_all_unknown_alerts_with_its_causes(spark: SparkSession, lake: Config) -> None:
    """Ten quiet refreshes of 60 customers, then one with pages renamed: judged by the tables alone."""
    times = [SECOND + timedelta(days=7 + number) for number in range(12)]
    for number in (0, 9, 10, 11):
        as_of = times[number]
        run = run_rows(spark, as_of, turned=0, model="m1").limit(60)
        publish(spark, lake, run, as_of)
        write_sequences(spark, lake, as_of, touched=60, unknown=number == 11)
    assert monitor_embeddings(spark, lake, times[0]).notes[0] == "60 customers have a new vector"
    for contract in (PROFILE_METRICS, DRIFT_METRICS):  # the nine in between were the same
        first = read_table(spark, contract, lake.root).where(F.col("as_of") == F.lit(times[0]))
        copies = local_frame(spark, [(time,) for time in times[1:10]], "copied_as_of timestamp")
        copied = first.crossJoin(copies).withColumn("as_of", F.col("copied_as_of"))
        names = F.date_format("as_of", "'m1-'MMdd").alias("run_id")
        columns = [names if name == "run_id" else name for name in contract.column_names]
        write_table(copied.select(*columns), contract, lake.root, mode="append")

    calm = monitor_embeddings(spark, lake, times[10])
    assert calm.notes[-1] == "nothing beyond what 10 runs of its kind have shown"

    (Path(lake.root) / "no-folder").write_text("a file")
    down = with_monitor(lake, on_drift="stop", alert_file=f"{lake.root}/no-folder/alerts.jsonl")
    with pytest.raises(DriftAlert, match=r"unknown values of page .* → 100.0%.*the alert was not delivered"):
        monitor_embeddings(spark, down, times[11])
    alerts = Path(lake.root) / "alerts.jsonl"
    up = with_monitor(lake, alert_file=str(alerts))
    for _ in range(2):  # an alert that arrived is not sent again
        warned = monitor_embeddings(spark, up, times[11])
    assert any(note.startswith("drift: ") for note in warned.notes)
    (line,) = alerts.read_text().splitlines()
    alert = json.loads(line)
    assert alert["customers"] == {"embedded": 60, "compared": 60, "with_new_events": 60}
    assert "known:page" not in line
    assert any(found["what"].startswith("unknown values of page") for found in alert["beyond_limits"])
    assert alert["causes"]["unknown_shares"]["page"] == 1.0
    assert set(alert["causes"]["segments_moved_most"]) == {"region=north", "region=south", f"tags={SCRIPT}"}
    assert "c001" not in line

    write_report(spark, lake, times[11])
    html = (Path(lake.root) / "report" / "index.html").read_text()
    assert "60 customers moved since their last vector of the same model, beside 11 earlier runs of its kind" in html
    assert "alert: unknown values of page" in html
    assert "region=north" in html
    assert "there is no run with a baseline yet" not in html
