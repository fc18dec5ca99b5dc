"""Who is told of a published run, and what happens where nobody listens."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.tables import read_table, table_path, table_version
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDINGS
from schemas.run_metrics import RUN_METRICS
from tests.publish.test_killed_publisher import killed_at


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caspr_spark.delivery._PAUSES", (0.0, 0.0))


def told_by(config: Config, *, command: list[str] | None = None, file: Path | None = None) -> Config:
    sinks = {"after_command": command or [], "after_file": str(file) if file else None}
    return config.model_copy(update={"publish": config.publish.model_copy(update=sinks)})


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_published_run_is_told_once_and_a_rerun_is_not(
    spark: SparkSession, once_published: Config, embed: Any, tmp_path: Path
) -> None:
    got, file = tmp_path / "got", tmp_path / "runs.jsonl"
    program = f"import sys; open({str(got)!r}, 'a').write(sys.stdin.read())"
    config = told_by(once_published, command=[sys.executable, "-c", program], file=file)
    as_of = embed({"ann": (3, 4), "cid": (5, 0)}, day=2, run_id="r2")

    assert publish_embeddings(spark, config, as_of).notes == ()
    assert not publish_embeddings(spark, config, as_of).changed

    (notice,) = lines(file)
    assert lines(got) == [notice]
    model = notice.pop("model_version")
    assert model == read_table(spark, CUSTOMER_EMBEDDINGS, config.root).collect()[0]["model_version"]
    assert notice == {
        "notice": "published",
        "dataset": config.dataset,
        "run_id": "r2",
        "as_of": "2017-10-02T00:00:00+00:00",
        "kind": "full",
        "table": table_path(CUSTOMER_EMBEDDINGS, config.root),
        "table_version": table_version(spark, CUSTOMER_EMBEDDINGS, config.root),
        "rows_written": 2,
        "rows_removed": 0,
        "customers": 3,
    }


def test_f86_a_hook_that_fails_undoes_nothing_is_reported_and_tried_again(
    spark: SparkSession, once_published: Config, embed: Any, tmp_path: Path
) -> None:
    file = tmp_path / "runs.jsonl"
    as_of = embed({"ann": (3, 4)}, day=2, run_id="r2")

    failed = publish_embeddings(spark, told_by(once_published, command=["no-such-program"]), as_of)

    assert failed.changed
    assert failed.problem is None
    assert failed.notes[0].startswith("warning: published, but the notice of run r2 was not delivered: publish.after_c")
    metrics = read_table(spark, RUN_METRICS, once_published.root).where("stage = 'publish'").collect()
    assert [(row["run_id"], row["metric"], row["value"]) for row in metrics] == [("r2", "notices_undelivered", 1.0)]
    served = read_table(spark, CUSTOMER_EMBEDDINGS, once_published.root).where("customer_id = 'ann'").collect()
    assert served[0]["run_id"] == "r2"

    later = embed({"ann": (5, 6)}, day=3, run_id="r3")
    assert publish_embeddings(spark, told_by(once_published, file=file), later).notes == ()
    assert [line["run_id"] for line in lines(file)] == ["r2", "r3"]


@pytest.mark.slow
def test_f02_a_run_whose_publisher_was_killed_is_told_by_the_next(
    spark: SparkSession, once_published: Config, embed: Any, overlays: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "runs.jsonl"
    overlays[-1].write_text(f"{overlays[-1].read_text()}publish: {{after_file: {file}}}\n")
    as_of = embed({"ann": (3, 4)}, day=2, run_id="r2")

    killed_at("after_runs", once_published, overlays, as_of)

    assert lines(file) == []
    assert not publish_embeddings(spark, told_by(once_published, file=file), as_of).changed
    assert [line["run_id"] for line in lines(file)] == ["r2"]
