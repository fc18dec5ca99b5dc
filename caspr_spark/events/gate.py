"""The gate: Great Expectations says whether rows and events may pass.

Each row check is one SQL predicate (`met_<check>` of `judged_rows`). The expectation is built on that column, the
rejected rows are found by it in Spark SQL, and the two counts must agree.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.config import Check, Expectation, OnFail
from caspr_spark.errors import CasprError, ConfigError

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")


@dataclass(frozen=True)
class Verdict:
    """What the gate found for one check: `failed_rows` is None where the expectation counts no rows."""

    check: str
    passed: bool
    on_fail: OnFail
    failed_rows: int | None
    detail: str


def row_verdicts(tables: Mapping[str, tuple[DataFrame, Mapping[str, Check]]]) -> list[Verdict]:
    """The verdict on each check over the judged rows of each source. `tables`: source -> judged rows, checks.

    All sources are looked at in one pass. A source without rows has no verdicts.

    Raises:
        CasprError: Great Expectations and Spark SQL count different rows (a fault of ours).
    """
    import great_expectations.expectations as gxe

    declared = {
        f"check_{place}_{index}": (source, name, check)
        for place, (source, (_, checks)) in enumerate(tables.items())
        for index, (name, check) in enumerate(checks.items())
    }
    flags = [
        judged.select(
            F.lit(source).alias("source"),
            *[F.col(f"met_{name}").alias(column) for column, (owner, name, _) in declared.items() if owner == source],
        )
        for source, (judged, _) in tables.items()
    ]
    if not declared:
        return []
    together = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), flags)
    counted = together.groupBy("source").agg(
        F.count(F.lit(1)).alias("rows"), *[F.count_if(~F.col(column)).alias(column) for column in declared]
    )
    counts = {row["source"]: row for row in counted.collect()}
    expectations = {
        column: gxe.ExpectColumnValuesToBeInSet(
            column=column,  # null in the rows of other sources, which the expectation passes over
            value_set=[True],
            mostly=round(1 - check.max_failed_share, 12),  # 1 - 0.7 is more than 0.3
        )
        for column, (source, _, check) in declared.items()
        if source in counts
    }
    verdicts = []
    for column, (success, result) in _validated(together, expectations).items():
        source, name, check = declared[column]
        failed = int(result["unexpected_count"])
        if failed != counts[source][column]:
            raise CasprError(
                f"{source}.{name}: the gate counts {failed} failing rows, Spark SQL {counts[source][column]}"
            )
        detail = (
            f"{source}: {failed:,} of {counts[source]['rows']:,} rows break '{name}' ({check.rule}); "
            f"{check.max_failed_share:.2%} may"
        )
        verdicts.append(Verdict(f"{source}.{name}", success, check.on_fail, failed, detail))
    return verdicts


def event_verdicts(events: DataFrame, *, gate: Mapping[str, Expectation]) -> list[Verdict]:
    """The verdict on each declared expectation over the finished events.

    Raises:
        ConfigError: there is no such expectation, or its arguments do not fit.
    """
    import great_expectations.expectations as gxe

    expectations = {}
    for name, declared in gate.items():
        kind = getattr(gxe, declared.expectation, None)
        if kind is None:
            raise ConfigError(f"events.gate.{name}: Great Expectations has no '{declared.expectation}'")
        try:
            expectations[name] = kind(**declared.arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"events.gate.{name}: the arguments do not fit {declared.expectation}: {error}") from None
    verdicts = []
    for name, (success, result) in _validated(events, expectations).items():
        failed = result.get("unexpected_count")
        found = f"{failed:,} events break it" if failed is not None else f"found {result.get('observed_value', result)}"
        detail = f"events: '{name}' ({gate[name].expectation} {gate[name].arguments}): {found}"
        verdicts.append(Verdict(f"events.{name}", success, gate[name].on_fail, failed, detail))
    return verdicts


def _validated(table: DataFrame, expectations: Mapping[str, Any]) -> dict[str, tuple[bool, dict[str, Any]]]:
    """Check name -> (passed, Great Expectations' result), in the order given."""
    if not expectations:
        return {}
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_spark(name="spark", persist=False)  # else the next run is shown this one's rows
    asset = source.add_dataframe_asset(name="table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": table})
    suite = gx.ExpectationSuite(name="gate")
    for name, expectation in expectations.items():
        expectation.meta = {"check": name}
        suite.add_expectation(expectation)
    outcome = batch.validate(suite, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    found = {}
    for result in outcome.results:
        if result.exception_info and result.exception_info.get("raised_exception"):
            raise CasprError(f"the gate could not be evaluated: {result.exception_info.get('exception_message')}")
        assert result.expectation_config is not None  # every expectation of the suite has one
        found[result.expectation_config.meta["check"]] = (bool(result.success), dict(result.result))
    return {name: found[name] for name in expectations}
