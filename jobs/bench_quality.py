"""`make bench-quality`: what the vectors are worth, one JSON line a task, metric, arm and head; and a page of tables.

    python -m jobs.bench_quality --quick --root data/bench_quality

Each data set is built from scratch at each of its cuts, every cut below a root of its own, with the default recipe: the
model sees nothing at or after the cut, the labels begin at it. The bank is simulated, SYNTHETIC. A cut that was built
and scored from the same inputs is not made again. The page is <root>/whole/quality.md, or <root>/quick/quality.md.
"""

import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import conf
from caspr_spark.aliases import champion_of
from caspr_spark.config import Config, overlaid
from caspr_spark.config_file import load_config
from caspr_spark.evaluate.experiment import EMBEDDING
from caspr_spark.evaluate.significance import score_table
from caspr_spark.pretrain.job import training_seconds
from caspr_spark.registry import checkpoint_folder
from caspr_spark.session import spark_session
from jobs.quality_page import write_quality_page
from pipelines.evaluate_embeddings import task_score_table
from pipelines.full_build import full_build
from pipelines.recipe_vectors import trained_recipe
from pipelines.simulate_bank import simulate_bank
from pipelines.summary import Summary

CONF = Path(conf.__file__).parent
RAW = "data/bank/raw"
"""Where conf/bank.yaml looks for the bank's files."""
BANK_START, BANK_DAYS, BANK_CUSTOMERS = datetime(2024, 1, 1, tzinfo=UTC), 75, 8000
TOO_EASY = ("no_employer",)
"""Tasks of the bank that a salary in the account answers: they tell no arm from another, and take their time."""


class Dataset(StrEnum):
    complete_journey = "complete_journey"
    bank = "bank"


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    name: str
    """Of the folder that everything lies in."""
    cuts: dict[Dataset, list[datetime]]
    changes: dict[str, dict[str, Any]]
    """Section of the configuration -> settings in place of its own."""
    recipes: dict[Dataset, dict[str, Any]]
    """Other encoders that are trained beside the default, at a data set's last cut."""


MASKED = {
    "model": {
        "objectives": {"future": 0.0, "masked": 1.0},
        "encoder": "caspr",
        "encoder_layers": 2,
        "pooling": "attention",
    }
}
"""The objective of the CASPR paper, with its encoder; as many layers as its decoder has."""
NO_MIXER = {"model": {"encoder": "none"}}
"""The default without a transformer."""

WHOLE = Plan(
    name="whole",
    cuts={
        Dataset.complete_journey: [datetime(2017, 7, 3, tzinfo=UTC), datetime(2017, 10, 2, tzinfo=UTC)],
        Dataset.bank: [datetime(2024, 3, 1, tzinfo=UTC)],
    },
    changes={"evaluate": {"label_counts": [50, 100, 200, 500, 1000], "ablations": True}},
    recipes={
        Dataset.complete_journey: {"masked": MASKED, "no_mixer": NO_MIXER},
        Dataset.bank: {"no_mixer": NO_MIXER},
    },
)
QUICK = Plan(
    name="quick",
    cuts={Dataset.complete_journey: [datetime(2017, 10, 2, tzinfo=UTC)]},
    changes={"pretrain": {"max_epochs": 4}, "evaluate": {"num_splits": 5, "label_counts": [100]}},
    recipes={},
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench_quality(
    quick: Annotated[bool, typer.Option("--quick", help="Complete Journey at one cut, 4 epochs, 5 splits.")] = False,
    dataset: Annotated[list[Dataset] | None, typer.Option(help="Only this one; may be given again.")] = None,
    root: Annotated[Path, typer.Option(help="Folder below which each cut is built.")] = Path("data/bench_quality"),
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Build, score and print."""
    plan = QUICK if quick else WHOLE
    chosen = dataset or list(plan.cuts)
    cuts = [(name, cut) for name in chosen for cut in plan.cuts.get(name, [])]
    if one:
        _score(Dataset(chosen[0]), datetime.fromisoformat(one), plan, root / plan.name)
        return
    began, lines = time.monotonic(), list[dict[str, Any]]()
    for name, cut in cuts:  # each in a process of its own, so that none inherits another's session
        options = ["--dataset", name, "--root", str(root), "--one", cut.isoformat(), *(["--quick"] if quick else [])]
        command = [sys.executable, "-m", "jobs.bench_quality", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(json.loads(line))
        if process.returncode:
            raise typer.Exit(process.returncode)
    by_kind = {kind: [line for line in lines if line["bench"] == kind] for kind in ("quality", "quality_cost")}
    minutes = (time.monotonic() - began) / 60
    page = write_quality_page(by_kind["quality"], by_kind["quality_cost"], root / plan.name, minutes=minutes)
    print(f"{page}: {minutes:.1f} minutes", file=sys.stderr)


def _score(name: Dataset, cut: datetime, plan: Plan, root: Path) -> None:
    folder = (root / name / f"{cut:%Y%m%d}").resolve()
    config = _config(name, cut, plan, folder)
    spark = spark_session("caspr-spark bench", config.spark.settings, log_file=folder / "logs" / "spark.log")
    try:
        if name is Dataset.bank:
            simulate_bank(
                spark,
                folder / "raw",
                num_customers=BANK_CUSTOMERS,
                start=BANK_START,
                num_batches=BANK_DAYS,
                hours=24,
                seed=config.seed,
            )
        full_build(spark, config, [cut], run_step=_told)
        version = champion_of(config.root)
        scores = task_score_table(spark, config, cut, version)
        for line in quality_lines(score_table(scores), dataset=name, cut=cut, model_version=version):
            print(json.dumps(line | {"splits": config.evaluate.num_splits}), flush=True)
        for line in cost_lines(config, dataset=name, cut=cut, model_version=version):
            print(json.dumps(line), flush=True)
    finally:
        spark.stop()


def quality_lines(table: pd.DataFrame, *, dataset: str, cut: datetime, model_version: str) -> list[dict[str, Any]]:
    """A `score_table` as JSON objects; numbers that are not known (differences of rfm to itself) are null."""
    numbers = ["mean", "standard_error", "difference_to_rfm", "difference_standard_error", "p_value"]
    numbers += ["bootstrap_error", "bootstrap_better", "difference_to_embedding", "p_value_to_embedding"]
    lines = []
    for row in table.to_dict("records"):
        known = {name: None if math.isnan(row[name]) else round(float(row[name]), 6) for name in numbers}
        named = {name: row[name] for name in ("task", "metric", "arm", "head")}
        about = {"bench": "quality", "dataset": str(dataset), "cut": f"{cut:%Y-%m-%d}"}
        lines.append({**about, **named, **known, "model_version": model_version})
    return lines


def cost_lines(config: Config, *, dataset: str, cut: datetime, model_version: str) -> list[dict[str, Any]]:
    """What the training of the model and of each recipe took, as JSON objects."""
    about = {"bench": "quality_cost", "dataset": str(dataset), "cut": f"{cut:%Y-%m-%d}"}
    seconds = {EMBEDDING: training_seconds(checkpoint_folder(config.root, model_version))}
    seconds |= {name: trained_recipe(config, cut, one).seconds for name, one in config.evaluate.recipes.items()}
    return [{**about, "recipe": name, "training_seconds": round(taken, 1)} for name, taken in seconds.items()]


def _config(name: Dataset, cut: datetime, plan: Plan, folder: Path) -> Config:
    config = load_config([CONF / f"{name}.yaml"])
    recipes = plan.recipes.get(name, {}) if cut == plan.cuts[name][-1] else {}
    tasks = {task: one for task, one in config.evaluate.tasks.items() if task not in TOO_EASY}
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"tasks": tasks})})
    changed: dict[str, Any] = {
        section: (now := getattr(config, section)).__class__.model_validate(overlaid(now.model_dump(), settings))
        for section, settings in overlaid(plan.changes, {"evaluate": {"recipes": recipes}}).items()
    }
    if name is Dataset.bank:
        raw = str(folder / "raw")
        for tables in ("sources", "profiles"):
            changed[tables] = {
                key: one.model_copy(update={"path": one.path.replace(RAW, raw)})
                for key, one in getattr(config, tables).items()
            }
    return config.model_copy(update={"root": str(folder / "root"), **changed})


def _told(name: str, step: Any) -> Summary:
    summary: Summary = step()
    lines = [f"{name}: {summary.rows_in} in, {summary.rows_out} out", *summary.notes]
    print("\n  ".join(lines), file=sys.stderr, flush=True)
    return summary


if __name__ == "__main__":
    sys.exit(app())
