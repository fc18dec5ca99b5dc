"""Pages of what the gates found: nothing from the network, no row's values, and not more of them than are wanted."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from caspr_spark.config import Config, Expectation
from caspr_spark.errors import GateError
from caspr_spark.gate import Judged, declared_verdicts
from pipelines.gate_run import GateRun
from tests.events.cases import AS_OF, config_of, visits

TABLE = pd.DataFrame({"customer_id": ["ann-4711", "bob-0815"], "amount": [1.0, 7.5], "page": ["<script>alert(1)", "x"]})


def judged(on_fail: str, expectation: str = "ExpectColumnMaxToBeBetween", **arguments: Any) -> Judged:
    declared = {"expectation": expectation, "arguments": arguments or {"column": "amount", "max_value": 5}}
    gate = {"mine": Expectation.model_validate({**declared, "on_fail": on_fail})}
    return declared_verdicts(TABLE, gate=gate, section="events", noun="events")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_of(tmp_path, sources={"visits": visits(tmp_path / "a.csv")}, maintain={"keep_data_docs": 2})


def pages(config: Config) -> list[str]:
    return sorted(path.name for path in (Path(config.root) / "data_docs").iterdir())


def test_a_gate_that_stops_leaves_a_page_that_says_why(config: Config) -> None:
    gate = GateRun(config, AS_OF, "events")
    gate.take(judged("warn"), so="mend it")
    page = Path(config.root) / "data_docs" / "20240601T000000Z-events.html"
    detail = "events: 'mine' (ExpectColumnMaxToBeBetween {'column': 'amount', 'max_value': 5}): found 7.5"
    assert gate.notes == [f"warning: {detail}", f"Data Docs: {page}"]
    assert "warned" in page.read_text()

    with pytest.raises(GateError) as error:
        gate.take(judged("stop"), so="mend it")

    assert str(error.value).splitlines()[1:] == [f"  - {detail}", "mend it", f"Data Docs: {page}"]
    html = page.read_text()
    assert ">failed<" in html
    assert html.count("maximum value must be") == 2  # Great Expectations' own words, of both
    assert "7.5" in html


def test_a_page_needs_nothing_from_elsewhere_and_shows_no_value_of_a_row(config: Config) -> None:
    gate = GateRun(config, AS_OF, "events")
    known = {"column": "customer_id", "value_set": ["ann"]}
    gate.take(judged("warn", "ExpectColumnDistinctValuesToBeInSet", **known), so="")
    gate.take(judged("warn", "ExpectColumnValuesToBeInSet", **known), so="")
    gate.take(judged("warn", "ExpectColumnMostCommonValueToBeInSet", **known), so="")
    gate.take(judged("warn", "ExpectColumnValuesToBeInSet", column="page", value_set=["<script>1"]), so="")

    (name,) = pages(config)
    html = (Path(config.root) / "data_docs" / name).read_text()
    assert "2 unexpected values found" in html
    for shown in (html, "\n".join(gate.notes)):
        assert not re.search(r"ann-4711|bob-0815|alert\(", shown)
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(|href=", html)


def test_only_the_newest_pages_are_kept(config: Config) -> None:
    for hours in (3, 1, 2, 1):
        GateRun(config, AS_OF + timedelta(hours=hours), "events").take(judged("warn"), so="")
    assert pages(config) == ["20240601T010000Z-events.html", "20240601T020000Z-events.html"]


def test_nothing_judged_is_no_page(config: Config) -> None:
    gate = GateRun(config, AS_OF, "events")
    gate.take(Judged([]), so="")
    assert gate.notes == []
    assert not (Path(config.root) / "data_docs").exists()
