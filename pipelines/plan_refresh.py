"""What a refresh would do: what arrived in which raw table, and how many customers it touches. Writes nothing."""

from datetime import datetime
from functools import reduce

from pyspark.sql import DataFrame, SparkSession

from caspr_spark import __version__
from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.disk import kept_on_disk
from caspr_spark.errors import CasprError
from caspr_spark.events.arrivals import InputPosition, arrivals, current_position, customers_of, read_position
from caspr_spark.tables import last_commit_notes
from pipelines.build_sequences import due_customers, sequence_versions
from pipelines.contracts import event_contract
from pipelines.refresh import previous_runs
from pipelines.summary import Summary


def plan_refresh(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """The notes say what arrived; `rows_out` is the number of customers that a refresh as of `as_of` would look at.

    Raises:
        CasprError: no run was published up to `as_of`.
    """
    champion = champion_of(config.root)
    runs = previous_runs(spark, config, as_of)
    last = last_commit_notes(spark, event_contract(config), config.root).get("numbers", {})
    if (previous := runs[champion]) is None or "position" not in last:
        raise CasprError(f"{config.root}: the events were not built by full-build; run it first")
    taken = read_position(config.root, last["position"])
    now = current_position(spark, config, version=__version__, taken=taken)
    notes = [f"from {previous.as_of.isoformat()} (run {previous.run_id}) to {as_of.isoformat()}"]
    notes += [
        line
        for where, place in now.inputs.items()
        if (line := _arrived(where, taken.inputs.get(where, InputPosition(kind="unknown")), place))
    ]
    found = arrivals(spark, config, taken, now)
    if isinstance(found, str):
        notes.append(f"every customer would be compared: {found}")
    with kept_on_disk() as keep:
        versions = sequence_versions(spark, config)
        due = due_customers(spark, config, as_of, runs, versions, keep, everybody=isinstance(found, str))
        looked_at = list(due.values())
        if found and not isinstance(found, str):
            looked_at.append(customers_of(found, config).na.drop())
        number = reduce(DataFrame.union, looked_at).distinct().count() if looked_at else 0
    notes.append(f"{number:,} customers would be looked at" if number else "nothing to do")
    return Summary("plan", len(now.inputs), number, tuple(notes), changed=False)


def _arrived(where: str, before: InputPosition, now: InputPosition) -> str | None:
    """One line for what is new in one raw table; None where nothing is."""
    if now.kind == "unknown":
        return f"{where}: cannot tell what is new"
    if now.kind == "delta":
        return f"{where}: versions {before.version + 1} to {now.version}" if now.version != before.version else None
    new = [size for path, (size, _) in now.files.items() if path not in before.files]
    return f"{where}: {len(new):,} new files, {sum(new):,} bytes" if new else None
