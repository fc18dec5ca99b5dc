"""The invented clickstream: reproducible, and its planted sessions are found again by stage events."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from pyspark.sql import SparkSession

from caspr_spark.config_file import load_config
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.simulate.clickstream import ACCOUNTS_FILE, CLICKS_FILE, clicks_of, write_clickstream
from caspr_spark.tables import read_table
from jobs.options import parsed_as_of
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.contracts import event_contract

ROOT = Path(__file__).parents[2]
AS_OF = parsed_as_of("2024-06-01T00:00:00Z")


def test_the_command_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "caspr_spark.simulate.clickstream", "--customers", "5", "--folder"]
    said = subprocess.run([*command, tmp_path / "a", "--seed", "7"], cwd=ROOT, check=True, capture_output=True)
    num_clicks = write_clickstream(tmp_path / "b", num_customers=5, seed=7)
    write_clickstream(tmp_path / "c", num_customers=5, seed=8)

    for name in (CLICKS_FILE, ACCOUNTS_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()
    assert said.stdout.decode().startswith(f"{num_clicks:,} synthetic clicks of 5 customers")


def test_a_customers_clicks_do_not_depend_on_how_many_customers_there_are(tmp_path: Path) -> None:
    write_clickstream(tmp_path, num_customers=5, seed=7)
    written = [json.loads(line) for line in (tmp_path / CLICKS_FILE).read_text().splitlines()]

    assert [click for click in written if click["customer_id"] == "synthetic-000003"] == list(clicks_of(3, seed=7))


def test_planted_sessions_are_found_and_become_sequences(spark: SparkSession, tmp_path: Path) -> None:
    num_clicks = write_clickstream(tmp_path, num_customers=30, seed=1)
    planted = [click for customer in range(30) for click in clicks_of(customer, seed=1)]
    overlay = {
        "root": str(tmp_path / "root"),
        "sources": {"clicks": {"path": str(tmp_path / CLICKS_FILE)}},
        "profiles": {"accounts": {"path": str(tmp_path / ACCOUNTS_FILE)}},
    }
    (tmp_path / "here.yaml").write_text(yaml.safe_dump(overlay))
    config = load_config([ROOT / "conf" / "clickstream.yaml", tmp_path / "here.yaml"])

    assert build_events(spark, config, AS_OF).rows_out == num_clicks == len(planted)

    found = {
        row["event_id"].rpartition("/")[2]: row["session_id"].rpartition("/")[2]
        for row in read_table(spark, event_contract(config), config.root).select("event_id", "session_id").collect()
    }
    clicks_by_session = defaultdict(list)
    for click in planted:
        clicks_by_session[click["true_session"]].append(str(click["click_id"]))
    assert found == {click: clicks[0] for clicks in clicks_by_session.values() for click in clicks}
    page_of = {click["click_id"]: click["page"] for click in planted}
    kinds = Counter((page_of[c[0]] == "login", page_of[c[-1]] == "logout") for c in clicks_by_session.values())
    assert len(kinds) == 4  # with and without login, with and without logout
    assert min(kinds.values()) > 20

    build_sequences(spark, config, AS_OF)

    folder = sequences_folder(config.root, AS_OF)
    manifest = read_manifest(folder)
    num_events = {
        row["customer_id"]: row["num_events"]
        for file in manifest.files
        for row in pq.read_table(folder / file.path).to_pylist()
    }
    before = Counter(
        str(click["customer_id"]) for click in planted if str(click["clicked_at"]) < "2024-06-01T00:00:00.000"
    )
    assert num_events == {customer: min(config.sequences.max_events, count) for customer, count in before.items()}
    assert [one.name for one in manifest.layout.categorical][-3:] == ["channel", "page", "term"]
