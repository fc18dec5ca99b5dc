"""The page of `make bench-quality`: every score of a line at its place, and what is not known left empty."""

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from caspr_spark.evaluate.experiment import paired_scores
from caspr_spark.evaluate.questions import YES_OR_NO
from caspr_spark.evaluate.significance import score_table
from jobs.bench_quality import quality_lines
from jobs.quality_page import write_quality_page


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Scores of a vector that tells the label, and of features that do not."""
    random = np.random.default_rng(1)
    labels = (random.random(300) < 0.4).astype(float)
    vectors = np.c_[labels + random.normal(0, 0.5, 300), random.normal(size=300)]
    noise = random.normal(size=(300, 2))
    outcome = paired_scores(
        {"rfm": noise, "embedding": vectors, "masked": noise},
        labels,
        rule=noise[:, 0],
        question=YES_OR_NO,
        num_splits=3,
        test_share=0.2,
        validation_share=0.2,
        seed=1,
        label_counts=[100],
    )
    return score_table(outcome.scores.assign(task="churn"))


def test_an_arm_that_a_task_does_not_have_is_left_empty(table: pd.DataFrame, tmp_path: Path) -> None:
    without = table[table["arm"] != "masked"].assign(task="kids")
    both = pd.concat([table, without], ignore_index=True)
    lines = quality_lines(both, dataset="shop", cut=datetime(2024, 3, 1, tzinfo=UTC), model_version="m1")
    page = write_quality_page(lines, [], tmp_path, minutes=1).read_text()
    (masked,) = [line for line in page.splitlines() if line.startswith("| masked |")]
    cells = [cell.strip() for cell in masked.strip("|").split("|")]
    assert "(p " in cells[2]
    assert cells[3] == ""


def test_the_page_has_the_arms_the_other_recipes_the_curve_and_pictures(table: pd.DataFrame, tmp_path: Path) -> None:
    lines = quality_lines(table, dataset="bank", cut=datetime(2024, 3, 1, tzinfo=UTC), model_version="m1")
    costs = [{"dataset": "bank", "cut": "2024-03-01", "recipe": "masked", "training_seconds": 12.4}]

    page = write_quality_page(lines, costs, tmp_path / "page", minutes=7.2).read_text()

    def mean(arm: str, head: str, metric: str = "auroc") -> str:
        chosen = table[(table["arm"] == arm) & (table["head"] == head) & (table["metric"] == metric)]
        return f"{chosen['mean'].item():.3f}"

    assert "## bank, as of 2024-03-01" in page
    assert "7 minutes" in page
    (arms,) = [line for line in page.splitlines() if line.startswith("| churn: auroc |")]
    cells = [cell.strip() for cell in arms.strip("|").split("|")]
    assert cells[1:5] == [mean("rule", "best"), "", mean("rfm", "best"), mean("embedding", "best")]
    assert cells[6] == "100%"
    (masked,) = [line for line in page.splitlines() if line.startswith("| masked |")]
    assert f"| 12 | {mean('masked', 'logistic')} (p " in masked
    (few,) = [line for line in page.splitlines() if line.startswith("| 100 |")]
    assert mean("embedding", "logistic", "auroc.100_labels") in few
    pictures = sorted(path.name for path in (tmp_path / "page").glob("*.svg"))
    assert pictures == ["bank_20240301_differences.svg", "bank_20240301_labels.svg"]
    assert all(f"({name})" in page for name in pictures)
    assert {ElementTree.parse(tmp_path / "page" / name).getroot().tag for name in pictures} == {
        "{http://www.w3.org/2000/svg}svg"
    }
