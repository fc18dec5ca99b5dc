"""The licence for refreshing: whatever happens to the raw tables and to the refreshes, the end is a full build's.

Hypothesis draws histories of a small shop (`World`), the same ones for the same seed, and prints the steps of one that
fails. CASPR_HISTORIES and CASPR_HISTORIES_SEED say how many and which: a night has time for a hundred.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.errors import UnsafeError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.runs import embedding_run_id
from jobs.bench_refresh import take_over_model
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.contracts import event_contract
from pipelines.full_build import full_build
from pipelines.maintain import maintain
from pipelines.refresh import refresh
from pipelines.scored_models import SERVED, for_each_model
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY
from schemas.runs import RUNS
from tests.refresh.full_builds import (
    FullBuilds,
    Rows,
    assert_as_built,
    by_customer,
    rows_below,
    sequences_below,
    served,
    tables_below,
)
from tests.refresh.kills import Killed, killed_after
from tests.refresh.test_maintain import maintain_long_after
from tests.refresh.test_refresh import FIRST, SECTIONS
from tests.refresh.world import CHANGES, World

HISTORIES = int(os.environ.get("CASPR_HISTORIES", "2"))
SEED = int(os.environ.get("CASPR_HISTORIES_SEED", "1"))
STEPS = 12
MAX_WRITES = 24
"""Of a refresh of one model."""
REFUSALS = {"vacuumed_payments": "vacuumed", "replaced_payments": "another one"}
"""Change of the raw tables -> what a refresh says that is refused because of it."""

changes = st.lists(st.sampled_from(CHANGES), max_size=3)


class Refreshes(RuleBasedStateMachine):
    """Refreshes of one root; between them the raw tables change and time goes on."""

    def __init__(
        self, spark: SparkSession, trained: Path, new_folder: Callable[[], Path], happened: Counter[str]
    ) -> None:
        super().__init__()
        self.spark, self.trained, self.new_folder, self.happened = spark, trained, new_folder, happened
        self.as_of = FIRST
        self.refusals: set[str] = set()

    @initialize(shop=st.integers(0, 2**32 - 1))
    def full_build(self, shop: int) -> None:
        assume(shop)  # Hypothesis begins with the simplest history, which is the same step again and again
        self.world = World(self.spark, self.new_folder(), shop, **SECTIONS)
        self.config = self.world.config()
        take_over_model(self.trained, Path(self.config.root))
        self.builds = FullBuilds(self.spark, self.config, self.world.folder / "whole")
        self._build_all()
        self._check(FIRST, self._run_id(FIRST))

    @rule(changes=changes, days=st.sampled_from([0, 1, 4, 12]))
    def refresh(self, changes: list[str], days: int) -> None:
        self._change(changes)
        self.as_of += timedelta(days=days)
        self._refresh(self.as_of)

    @rule(changes=changes, days=st.sampled_from([0, 1, 4]), num_writes=st.integers(0, MAX_WRITES))
    def killed_refresh(self, changes: list[str], days: int, num_writes: int) -> None:
        self._change(["new_orders", *changes])
        self.as_of += timedelta(days=days)
        before = served(self.config)
        summaries = None
        with suppress(Killed), killed_after(num_writes, self.config.root) as written:
            summaries = self._refreshed(self.as_of)
        how = "killed" if summaries is None else "ended"
        self.happened[f"{how} after {written[-1] if written else 'nothing'}"] += 1
        self._check_readers(before, self.as_of)

    @rule(changes=changes, days=st.sampled_from([1, 3]))
    def late_refresh(self, changes: list[str], days: int) -> None:
        """Of an interval that was passed already."""
        self._change(changes)
        self._refresh(max(FIRST, self.as_of - timedelta(days=days)))

    @rule(changes=changes)
    def refresh_comparing_all(self, changes: list[str]) -> None:
        self._change(changes)
        self._refresh(self.as_of, compare_all=True)

    @rule(changes=changes)
    def full_build_again(self, changes: list[str]) -> None:
        """Over the same root; whoever has no event any more leaves the latest table with the next refresh."""
        self._change(changes)
        self._build_all()
        self.refusals.clear()
        self._refresh(self.as_of)

    @rule(how=st.sampled_from([maintain, maintain_long_after]))
    def maintenance(self, how: Callable[[SparkSession, Config], object]) -> None:
        before = served(self.config)
        how(self.spark, self.config)
        assert served(self.config) == before

    @rule(change=st.sampled_from(["remove_customer", *REFUSALS]))
    def rare_change(self, change: str) -> None:
        self._change(["corrected_payment", change])
        self.refusals |= {REFUSALS[change]} if change in REFUSALS else set()

    def teardown(self) -> None:
        """However a history ends, the next refresh mends it."""
        if sys.exc_info()[0] is None:
            self._refresh(self.as_of)

    def _change(self, names: list[str]) -> None:
        for name in names:
            getattr(self.world, name)()

    def _build_all(self) -> None:
        """A full build with the model that is there."""
        build_events(self.spark, self.config, self.as_of)
        build_sequences(self.spark, self.config, self.as_of, fit_vocabulary=False)
        models = [champion_of(self.config.root)]
        for_each_model(self.spark, self.config, self.as_of, SERVED, models=models, run_step=lambda name, step: step())

    def _refresh(self, as_of: datetime, **options: Any) -> None:
        before = served(self.config)
        summaries = self._refreshed(as_of, **options)
        sequences = next(summary for summary in summaries if summary.step == "sequences")
        self.happened["refreshes"] += 1
        self._check_readers(before, as_of)
        self._check(as_of, self._run_id(as_of) if sequences.rows_in else None)

    def _refreshed(self, as_of: datetime, **options: Any) -> list[Summary]:
        """With all customers compared, where a refresh is refused for a reason that there is."""
        try:
            summaries = refresh(self.spark, self.config, as_of, **options)
        except UnsafeError as error:
            if not any(reason in str(error) for reason in self.refusals):
                raise
            summaries = refresh(self.spark, self.config, as_of, compare_all=True)
        self.refusals.clear()
        return summaries

    def _run_id(self, as_of: datetime) -> str:
        manifest = read_manifest(sequences_folder(self.config.root, as_of))
        return embedding_run_id(manifest, champion_of(self.config.root))

    def _check(self, as_of: datetime, run_id: str | None) -> None:
        """Tables, the run's sequences (None: nobody was touched) and vectors are those of full builds."""
        found, wanted = tables_below(self.config), self.builds.tables(as_of)
        for name in wanted:
            assert found[name] == wanted[name], name
        if run_id is not None:
            self._check_run(as_of, run_id)
        if as_of == self.as_of:
            latest = served(self.config)
            assert latest.keys() == self.builds.sequences(as_of).keys()
            assert_as_built(latest, self.builds)

    def _check_run(self, as_of: datetime, run_id: str) -> None:
        folder = sequences_folder(self.config.root, as_of)
        found, wanted = sequences_below(self.config, as_of), self.builds.sequences(as_of)
        looked_at = wanted.keys()
        if (touched := read_manifest(folder).touched) is not None:
            looked_at = {row["customer_id"] for row in self.spark.read.parquet(str(folder / touched)).collect()}
        assert found == {customer: row for customer, row in wanted.items() if customer in looked_at}
        published = self._history_of(run_id)
        assert published.keys() == found.keys()
        assert_as_built(published, self.builds)

    def _check_readers(self, before: Rows, as_of: datetime) -> None:
        """Every recorded run is whole, and so is what the latest table holds since `before` of one as of `as_of`."""
        runs = {row["run_id"]: row for row in rows_below(self.config, RUNS)}
        for run_id, run in runs.items():
            assert len(self._history_of(run_id)) == run["num_customers"]
        after = served(self.config)
        new = {row["run_id"] for customer, row in after.items() if row != before.get(customer)}
        assert len(new) <= 1
        rows = {customer: row for run_id in new for customer, row in self._history_of(run_id).items()}
        newer = {who: row for who, row in rows.items() if who not in before or row["as_of"] >= before[who]["as_of"]}
        gone = before.keys() - after.keys()
        assert {**{who: row for who, row in before.items() if who not in gone}, **newer} == after
        events = rows_below(self.config, event_contract(self.config))
        assert not gone & {event["customer_id"] for event in events if event["event_time"] < as_of}

    def _history_of(self, run_id: str) -> Rows:
        rows = rows_below(self.config, CUSTOMER_EMBEDDING_HISTORY)
        return by_customer(row for row in rows if row["run_id"] == run_id)


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a model, of a shop of its own."""
    world = World(spark, tmp_path_factory.mktemp("trained"), seed=1, **SECTIONS)
    full_build(spark, world.config(), [FIRST])
    return Path(world.config().root)


@pytest.mark.slow
@pytest.mark.timeout(1800 * (HISTORIES + 1))
def test_f60_f64_after_any_history_everything_equals_full_builds(
    spark: SparkSession, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    happened: Counter[str] = Counter()
    run_state_machine_as_test(
        seed(SEED)(lambda: Refreshes(spark, trained, lambda: tmp_path_factory.mktemp("shop"), happened)),
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # to shrink a history would take hours
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"seed {SEED}, {HISTORIES} histories: {dict(happened)}")
