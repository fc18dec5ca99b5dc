"""The verdicts on raw rows.

Each row check is one SQL predicate (`met_<check>` of `judged_rows`). The expectation is built on that column, the
rejected rows are found by it in Spark SQL, and the two counts must agree.
"""

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.config import Check
from caspr_spark.errors import CasprError
from caspr_spark.gate import Judged, Verdict, validated


def row_verdicts(tables: Mapping[str, tuple[DataFrame, Mapping[str, Check]]]) -> Judged:
    """The verdict on each check over the judged rows of each source. `tables`: source -> judged rows, checks.

    All sources are looked at in one pass. A source without rows has no verdicts.

    Raises:
        CasprError: Great Expectations and Spark SQL count different rows (a fault of ours).
    """
    import great_expectations.expectations as gxe

    declared = {
        f"{source}: {name}": (source, name, check)
        for source, (_, checks) in tables.items()
        for name, check in checks.items()
    }
    flags = [
        judged.select(
            F.lit(source).alias("source"),
            *[F.col(f"met_{name}").alias(column) for column, (owner, name, _) in declared.items() if owner == source],
        )
        for source, (judged, _) in tables.items()
    ]
    if not declared:
        return Judged([])
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
    validation = validated(together, expectations, suite="raw rows")
    verdicts = []
    for column, (success, result) in validation.results.items():
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
    return Judged(verdicts, validation.outcome)
