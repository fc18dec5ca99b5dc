"""The gate: Great Expectations says whether a table, or the numbers measured of one, may pass. It is called here alone.

No row is shown: of what Great Expectations finds, counts and single numbers are kept, in verdicts and pages alike.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import pandas as pd
from pyspark.sql import DataFrame

from caspr_spark.config import Expectation, OnFail
from caspr_spark.errors import CasprError, ConfigError

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

_COUNTS = {"element_count", "unexpected_count", "missing_count"}
_SHARES = {"unexpected_percent", "unexpected_percent_total", "unexpected_percent_nonmissing", "missing_percent"}


@dataclass(frozen=True)
class Verdict:
    """What the gate found for one check: `failed_rows` is None where the expectation counts no rows."""

    check: str
    passed: bool
    on_fail: OnFail
    failed_rows: int | None
    detail: str


class Validation(NamedTuple):
    """Check -> (passed, the counts and the number that were found); `outcome` is what a page is rendered of."""

    results: dict[str, tuple[bool, dict[str, Any]]]
    outcome: Any = None


class Judged(NamedTuple):
    """The verdicts on one table, and what a page of them is rendered of (None: nothing was judged)."""

    verdicts: list[Verdict]
    outcome: Any = None


def declared_verdicts(
    table: DataFrame | pd.DataFrame, *, gate: Mapping[str, Expectation], section: str, noun: str
) -> Judged:
    """The verdict on each declared expectation over a table, or over the single row of numbers measured of one.

    `section` is the configuration's, `noun` what the texts call the rows. Of a pandas table, an expectation on a column
    without values has no verdict: it was not measured.

    Raises:
        ConfigError: there is no such expectation, or its arguments do not fit the table.
    """
    gate = {name: declared for name, declared in gate.items() if not _is_unmeasured(table, declared)}
    expectations = {name: _expectation(f"{section}.gate.{name}", declared, table) for name, declared in gate.items()}
    found = validated(table, expectations, suite=noun)
    verdicts = []
    for name, (success, result) in found.results.items():
        failed, declared = result.get("unexpected_count"), gate[name]
        text = f"{failed:,} {noun} break it" if failed is not None else f"found {_shown(result.get('observed_value'))}"
        detail = f"{noun}: '{name}' ({declared.expectation} {declared.arguments}): {text}"
        verdicts.append(Verdict(f"{noun}.{name}", success, declared.on_fail, failed, detail))
    return Judged(verdicts, found.outcome)


def _shown(observed: float | None) -> str:
    if observed is None:
        return "other values"
    return f"{int(observed):,}" if float(observed).is_integer() else f"{observed:,.6g}"


def _is_unmeasured(table: DataFrame | pd.DataFrame, declared: Expectation) -> bool:
    column = declared.arguments.get("column")
    return isinstance(table, pd.DataFrame) and column in table and bool(table[column].isna().all())


def _expectation(where: str, declared: Expectation, table: DataFrame | pd.DataFrame) -> Any:
    import great_expectations.expectations as gxe

    kind = getattr(gxe, declared.expectation, None)
    if kind is None:
        raise ConfigError(f"{where}: Great Expectations has no '{declared.expectation}'")
    column = declared.arguments.get("column")
    if column is not None and column not in table.columns:
        raise ConfigError(f"{where}: there is no column '{column}' (there are: {', '.join(table.columns)})")
    try:
        return kind(**declared.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: the arguments do not fit {declared.expectation}: {error}") from None


def validated(table: DataFrame | pd.DataFrame, expectations: Mapping[str, Any], *, suite: str) -> Validation:
    """What Great Expectations finds for each check, in the order given. `suite` is the title on a page.

    Raises:
        CasprError: an expectation could not be evaluated.
    """
    if not expectations:
        return Validation({})
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    sources = context.data_sources
    source: Any = (
        sources.add_pandas(name="pandas")
        if isinstance(table, pd.DataFrame)
        else sources.add_spark(name="spark", persist=False)  # else the next run is shown this one's rows
    )
    asset = source.add_dataframe_asset(name="table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": table})
    suite_of_all = gx.ExpectationSuite(name=suite)
    for name, expectation in expectations.items():
        expectation.meta = {"check": name}
        suite_of_all.add_expectation(expectation)
    outcome = batch.validate(suite_of_all, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    found = {}
    for result in outcome.results:
        if result.exception_info and result.exception_info.get("raised_exception"):
            raise CasprError(f"the gate could not be evaluated: {result.exception_info.get('exception_message')}")
        kept = _without_values(result.result)
        # a page cannot be rendered of a count without its share
        result.result = kept if "unexpected_percent" in kept else {k: v for k, v in kept.items() if k not in _COUNTS}
        assert result.expectation_config is not None  # every expectation of the suite has one
        found[result.expectation_config.meta["check"]] = (bool(result.success), kept)
    return Validation({name: found[name] for name in expectations}, outcome)


def _without_values(result: Mapping[str, Any]) -> dict[str, Any]:
    """The counts, and the number that was observed; not the values of rows, which may name customers."""
    kept = {key: value for key, value in result.items() if key in _COUNTS | _SHARES}
    observed = result.get("observed_value")
    return kept | ({"observed_value": observed} if isinstance(observed, Real) else {})
