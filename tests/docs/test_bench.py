"""`make bench`: one JSON line a stage, and a generator whose rows do not depend on how Spark cuts the work."""

import json
import math
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.evaluate.significance import TABLE_COLUMNS
from caspr_spark.simulate.purchases import MEAN_LINES, accounts, order_lines
from caspr_spark.simulate.random_sequences import random_sequences
from jobs.bench_gpu import operations_a_customer, peak_of
from jobs.bench_quality import quality_lines
from jobs.bench_train import sections
from jobs.measuring import rss_mib_of_tree

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["events", "sequences", "pretrain", "embed", "publish", "monitor", "evaluate", "report"]
KEYS = {"bench", "dataset", "rows", "seconds", "rows_per_second", "peak_rss_mib", "versions", "machine"}


def digest(frame: DataFrame) -> tuple[int, int]:
    """Number of rows and the sum of their hashes, whatever their order."""
    row = frame.agg(F.count(F.lit(1)), F.sum(F.xxhash64(*frame.columns).cast("decimal(38,0)"))).first()
    assert row is not None
    return int(row[0]), int(row[1])


def test_generated_rows_do_not_depend_on_the_partitions(spark: SparkSession) -> None:
    digests = []
    for cores in ("1", "7"):
        spark.conf.set("spark.sql.leafNodeDefaultParallelism", cores)
        digests.append([digest(make(spark, num_customers=200, seed=3)) for make in (order_lines, accounts)])
    spark.conf.unset("spark.sql.leafNodeDefaultParallelism")
    assert digests[0] == digests[1]
    assert digests[0] != [digest(make(spark, num_customers=200, seed=4)) for make in (order_lines, accounts)]


def test_generated_customers_differ_and_have_tails(spark: SparkSession) -> None:
    lines = order_lines(spark, num_customers=500, seed=1)
    orders = lines.groupBy("customer_id").agg(
        F.count_distinct("order_id").alias("orders"), F.count(F.lit(1)).alias("lines")
    )
    found = orders.agg(F.count(F.lit(1)), F.max("orders"), F.median("orders"), F.sum("lines"), F.sum("orders")).first()
    assert found is not None
    num_customers, largest, median, num_lines, num_orders = found
    assert num_customers == 500
    assert largest > 5 * median
    assert num_lines / num_orders == pytest.approx(MEAN_LINES, rel=0.1)


def test_scores_are_json_lines_and_what_is_not_known_is_null() -> None:
    row = ["churn", "auroc", "rfm", "best", 0.85, 0.01, math.nan, math.nan, math.nan, False, *[math.nan] * 4]
    other = [
        "churn",
        "auroc",
        "fused",
        "best",
        0.86,
        0.01,
        0.01,
        0.0041234567,
        0.25,
        False,
        0.004,
        0.97,
        math.nan,
        math.nan,
    ]
    table = pd.DataFrame([row, other], columns=TABLE_COLUMNS)

    lines = quality_lines(table, dataset="shop", cut=datetime(2017, 10, 2, tzinfo=UTC), model_version="m1")

    about = {"bench": "quality", "dataset": "shop", "cut": "2017-10-02", "task": "churn", "metric": "auroc"}
    assert json.loads(json.dumps(lines[0], allow_nan=False)) == about | {
        "arm": "rfm",
        "head": "best",
        "mean": 0.85,
        "standard_error": 0.01,
        "difference_to_rfm": None,
        "difference_standard_error": None,
        "p_value": None,
        "bootstrap_error": None,
        "bootstrap_better": None,
        "difference_to_embedding": None,
        "p_value_to_embedding": None,
        "model_version": "m1",
    }
    assert lines[1]["difference_standard_error"] == 0.004123


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quality_of_the_vectors_is_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.bench_quality", "--quick", "--root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    lines = [line for line in told if line["bench"] == "quality"]
    assert [line["recipe"] for line in told if line["bench"] == "quality_cost"] == ["embedding"]
    assert {line["task"] for line in lines} == {"churn", "value", "coupon", "categories", "kids"}
    assert {line["arm"] for line in lines} == {"rule", "rfm", "embedding", "both", "fused", "ease"}
    assert {line["splits"] for line in lines} == {5}
    scores = {(line["arm"], line["head"]): line["mean"] for line in lines if line["metric"] == "auroc"}
    assert scores["rule", "best"] + 0.03 < scores["embedding", "logistic"] < 1
    assert "## complete journey, as of 2017-10-02" in (tmp_path / "quick" / "quality.md").read_text()


def test_memory_of_the_process_tree_has_the_children() -> None:
    alone = sum(rss_mib_of_tree(os.getpid()))
    hold = "import sys; block = bytearray(b'x') * (64 << 20); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        together = sum(rss_mib_of_tree(os.getpid()))
        child.communicate()
    assert 60 < together - alone < 160


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_stage_is_one_json_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.bench", "--customers", "300", "--dataset", "generated"]
    done = subprocess.run([*command, "--root", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["bench"] for line in lines] == ["session", "generate", *STAGES]
    assert [line["bench"] for line in lines if set(line) != KEYS] == []
    assert [line["bench"] for line in lines[1:] if min(line["rows"], line["rows_per_second"]) <= 0] == []
    assert min(line["peak_rss_mib"] for line in lines) > 100


@pytest.mark.slow
def test_training_and_scoring_are_measured_beside_a_peer(tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    found = "{'seq_per_s': 7.5 + (sys.argv[1] == 'encode'), 'peak_rss_mib': 9}"
    script.write_text(f"import json, sys\nprint('log')\nprint(json.dumps({found}))\n")
    peer = shlex.join([sys.executable, str(script), "{phase}"])
    command = [sys.executable, "-m", "jobs.bench_train", "--customers", "256", "--peer", peer]
    done = subprocess.run(
        [*command, "--root", str(tmp_path / "root")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(line["bench"], line["launcher"], line.get("ranks")) for line in lines]
    assert found == [
        ("feed", "single", 1),
        ("pretrain", "single", 1),
        ("pretrain", "torchrun", 2),
        ("pretrain", "peer", None),
        ("encode", "tasks", 2),
        ("encode", "spark", 2),
        ("encode", "peer", None),
    ]
    assert [line["sequences_per_second"] for line in lines if line["launcher"] == "peer"] == [7.5, 8.5]
    assert min(line["peak_rss_mib"] for line in lines if line["launcher"] != "peer") > 100
    assert 0 < lines[1]["sequences_per_second"] < lines[4]["sequences_per_second"]
    assert 0 < lines[0]["times_plain_arrow"] < 3


@pytest.mark.slow
def test_a_gpu_is_measured(tmp_path: Path) -> None:
    """Where there is none, the command says so; then it is tried out on the CPU."""
    command = [sys.executable, "-m", "jobs.bench_gpu", "--root", str(tmp_path)]
    if not torch.cuda.is_available():
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "sees no GPU here; nothing was measured" in refused.stderr
    small = ["--device", "cpu", "--size", "paper", "--customers", "64", "--peak-tflops", "1"]
    done = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["precision"] for line in lines] == ["bf16", "float32"]
    for line in lines:
        rounded = 15 * 0.05 + 0.5  # of a tenth of a customer, and of a token
        assert line["tokens_per_second"] == pytest.approx(15 * line["sequences_per_second"], abs=rounded + 1e-6)
        assert line["share_of_peak"] == pytest.approx(line["tflops"], abs=1e-4)


def test_operations_are_counted_for_forward_and_backward_pass(tmp_path: Path) -> None:
    """Against a count by hand: 6 for each weight of a layer and event, 12 for each pair of events and number."""
    manifest = random_sequences(folder := tmp_path / "sequences", num_customers=64, num_events=96, row_groups=1)
    model, how = sections({"launcher": "single", "recipe": "default", "cores": 1}, max_epochs=1)
    changes = {"width": 128, "feed_forward": 512, "encoder_layers": 1}
    counted = [
        operations_a_customer(folder, manifest, model.model_copy(update=changes | {"encoder_layers": layers}), how)
        for layers in (1, 3)
    ]
    weights = 4 * 128 * 128 + 2 * 128 * 512
    assert (counted[1] - counted[0]) / 2 == pytest.approx(96 * weights * 6 + 12 * 96 * 96 * 128, rel=0.01)


def test_a_card_is_known_by_a_whole_word_of_its_name() -> None:
    assert peak_of("NVIDIA A100-SXM4-80GB")["bf16"] == 312
    assert peak_of("NVIDIA A10")["bf16"] == 125
    assert peak_of("NVIDIA H100 80GB HBM3")["bf16"] == 989
    assert peak_of("NVIDIA L40S") == peak_of("NVIDIA H100 PCIe") == peak_of("Tesla V100X") == {}


@pytest.mark.slow
def test_workers_are_measured_against_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.bench_distributed", "--customers", "256", "--workers", "2"]
    done = subprocess.run([*command, "--root", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["launcher"], line["ranks"]) for line in lines] == [("single", 1), ("torchrun", 2), ("horovod", 2)]
    assert lines[0]["efficiency"] == 1
    assert [line["exchange_share"] > 0.001 for line in lines] == [False, True, True]
    for line in lines:
        assert line["worker_seconds"] == pytest.approx(line["ranks"] * line["seconds_an_epoch"], abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_refresh_is_measured_against_a_full_build(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.bench_refresh", "--history", "200000", "--root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    full, few, many = (json.loads(line) for line in done.stdout.splitlines())
    assert [line["bench"] for line in (full, few, many)] == ["full_build", "refresh", "refresh"]
    assert 0 < few["touched_customers"] < many["touched_customers"] < full["touched_customers"] == 2000
    assert 10 * few["rows_read"] < full["rows_read"]
    assert 10 * few["bytes_written"] < full["bytes_written"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_short_soak_loses_and_doubles_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.soak", "--refreshes", "3", "--customers", "40", "--kill-share", "0.6"]
    done = subprocess.run([*command, "--root", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["refreshes"] == 3
    assert summary["kills"] == sum(summary["kills_by_step"].values()) > 0
    assert set(summary["wrong"].values()) == {0}
