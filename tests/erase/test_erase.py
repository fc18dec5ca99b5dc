"""Erasure on the small shop, whose raw tables go on naming the erased: they are gone below the root, and stay so."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.erase.requests import read_request
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.tables import read_table, table_path
from pipelines.build_events import build_events
from pipelines.contracts import event_contract
from pipelines.customer_states import states_of, write_states
from pipelines.erase import erase, verified
from pipelines.full_build import full_build
from pipelines.plan_refresh import plan_refresh
from pipelines.refresh import refresh
from pipelines.refresh_events import refresh_events
from pipelines.write_report import write_report
from schemas.events import REJECTED
from tests.events.cases import AS_OF, LENIENT
from tests.refresh.full_builds import served
from tests.refresh.test_refresh import FIRST, SECTIONS
from tests.refresh.test_refresh_events import states_found, states_of_events
from tests.refresh.world import World

ERASED = ["c1", "c2"]
NOW = datetime(2024, 7, 1, 12, tzinfo=UTC)
NAMED = re.compile(rf"\b({'|'.join(ERASED)})\b")
ACCOUNT = re.compile(
    r"^\w+: ([\d,]+) rows read = ([\d,]+) taken \+ ([\d,]+) duplicate \+ ([\d,]+) rejected(?: \(.*\))?"
    r"(?: \+ ([\d,]+) erased)?"
)


def erased_by_account(notes: tuple[str, ...]) -> int:
    """Rows that the accounts say were erased; each account must add up."""
    total = 0
    for found in filter(None, map(ACCOUNT.match, notes)):
        read, *ended = [int((number or "0").replace(",", "")) for number in found.groups()]
        assert read == sum(ended)
        total += ended[-1]
    return total


@pytest.mark.slow
def test_f98_raw_rows_of_the_erased_are_counted_and_not_taken(spark: SparkSession, tmp_path: Path) -> None:
    world = World(spark, tmp_path, seed=4)
    config = world.config()
    build_events(spark, config, AS_OF)
    others = world.found()
    half_done = states_of(spark, config, read_table(spark, event_contract(config), config.root).limit(3))
    write_states(spark, config, half_done, changed=True)  # as a refresh does that is killed before it writes events
    summary = erase(spark, config, ERASED, "R-1", now=NOW)
    kept = {name: [row for row in rows if not NAMED.search(repr(row))] for name, rows in others.items()}
    assert world.found() == kept
    assert "no trace of 2 customers" in verified(config.root, ERASED, "R-1")
    request = read_request(config.root, "R-1")
    assert request is not None
    assert request.rows_erased["events"] == len(others["events"]) - len(kept["events"]) > 0
    assert summary.rows_out == sum(request.rows_erased.values())
    assert states_found(spark, config) == states_of_events(spark, config)

    world.new_payments(12)
    view = json.dumps({"who": "c5", "ts": AS_OF.isoformat(), "page": "home"})
    torn = '{"who": "c2", "page": torn'  # nobody's, but it names one of them
    (tmp_path / "views" / "torn.json").write_text(f"{view}\n{torn}\n")
    notes = refresh_events(spark, config, AS_OF).notes
    assert erased_by_account(notes) > 0
    assert world.found() == world.expected()
    assert states_found(spark, config) == states_of_events(spark, config)
    assert "no trace of 2 customers" in verified(config.root, ERASED, "R-1")

    assert erase(spark, config, ERASED, "R-1", now=NOW).notes == (
        "request R-1 was finished at 2024-07-01T12:00:00+00:00: nothing to do",
    )
    with pytest.raises(ConfigError, match="made for 2 customers who are not those"):
        erase(spark, config, ["c3"], "R-1", now=NOW)
    with pytest.raises(ConfigError, match="no erasure 'R-2'"):
        verified(config.root, ERASED, "R-2")


def command(world: World, *arguments: str, crash_at: str = "") -> tuple[int, str]:
    """Exit code and output of the command line on the shop."""
    configured = ("--config", str(LENIENT), "--config", str(world.folder / "overlay.yaml"))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments, *configured],
        env={**os.environ, "CASPR_CRASH_AT": crash_at},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_f95_f98_f99_erased_customers_are_nowhere_and_do_not_come_back(spark: SparkSession, tmp_path: Path) -> None:
    world = World(spark, tmp_path, seed=3, **SECTIONS)
    config = world.config()
    full_build(spark, config, [FIRST])
    world.new_views()
    second = FIRST + timedelta(days=1)
    refresh(spark, config, second)
    write_report(spark, config, second)
    before = served(config)
    assert set(ERASED) < before.keys()

    shown = killed_and_finished(world, tmp_path)
    assert [line for line in shown.splitlines() if NAMED.search(line)] == []
    said = "".join(path.read_text() for path in (Path(config.root) / "erasures").iterdir())
    assert NAMED.search(said) is None
    assert served(config) == {who: found for who, found in before.items() if who not in ERASED}
    for name in ("events", "customer_embedding_history"):
        with pytest.raises(AnalysisException, match=r"DELTA_VERSION_NOT_FOUND.*Cannot time travel"):
            spark.read.format("delta").option("versionAsOf", 0).load(f"{config.root}/{name}").count()

    assert refresh(spark, config, second)[-1].notes == ("no customer was touched: nothing to do",)
    assert plan_refresh(spark, config, second).notes[-1] == "nothing to do"
    from_first = plan_refresh(spark, config, FIRST + timedelta(hours=1))  # what changed since then is not told any more
    assert from_first.rows_out == len(served(config))
    world.new_views(20)
    world.new_orders()
    third = second + timedelta(days=1)
    assert erased_by_account(refresh(spark, config, third)[0].notes) > 0
    assert_gone(spark, world, config)
    assert served(config).keys() == before.keys() - set(ERASED)

    world.rewritten_file()
    assert erased_by_account(build_events(spark, config, third).notes) > 0
    assert_gone(spark, world, config)


def killed_and_finished(world: World, tmp_path: Path) -> str:
    """Erase by the command line, killed between two tables and finished by its rerun; returns all that was shown."""
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(ERASED))
    request = ("erase", "--ids-file", str(ids), "--request-id", "R1")
    verify = ("erase", "verify", "R1", "--ids-file", str(ids))
    shown = []

    def expect(code: int, text: str, *arguments: str, crash_at: str = "") -> None:
        found, output = command(world, *arguments, crash_at=crash_at)
        shown.append(output)
        assert found == code, output
        assert text in output

    expect(2, "no erasure 'R1'", *verify)
    expect(137, "", *request, crash_at="erase_after_customer_states")
    expect(1, "was not finished", *verify)
    expect(5, "'R1' was not finished", "refresh", "--as-of", "2024-02-03T00:00:00Z")
    expect(0, "rows erased: customer_embedding_history", *request)
    expect(0, "request R1: no trace of 2 customers", *verify)
    return "".join(shown)


def assert_gone(spark: SparkSession, world: World, config: Config) -> None:
    """The tables are what a build over all raw rows gives, and no byte names the erased."""
    assert world.found() == world.expected()
    customers = read_table(spark, event_contract(config), config.root).select("customer_id").distinct()
    assert customers.where(F.col("customer_id").isin(ERASED)).isEmpty()
    assert "no trace of 2 customers" in verified(config.root, ERASED, "R1")
    planted = Path(table_path(REJECTED, config.root)) / "_delta_log" / ".left.json"
    planted.write_text('{"maxValues": {"customer_id": "c2"}}')
    with pytest.raises(CasprError, match=r"traces of 2 customers.*\n  - rejected/_delta_log/.left.json: text"):
        verified(config.root, ERASED, "R1")
    planted.unlink()
