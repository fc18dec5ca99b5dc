"""The import rules of pyproject.toml hold for the code, and each of them is broken by the import that it forbids."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# One forbidden import for each contract, in the order of pyproject.toml.
VIOLATIONS = (
    ("schemas", "import pipelines"),
    ("caspr_spark/publish", "import caspr_spark.monitor"),
    ("caspr_spark/model", "import pyspark"),
    ("caspr_spark/monitor", "import torch"),
    ("caspr_spark/embed", "import petastorm"),
    ("jobs", "import horovod.torch"),
)


def test_the_code_keeps_every_rule() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_each_rule_is_broken_by_what_it_forbids(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("caspr_spark", "pipelines", "jobs", "schemas"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for package, statement in VIOLATIONS:
        with (tmp_path / package / "__init__.py").open("a", encoding="utf-8") as module:
            module.write(f"\n{statement}\n")
    done = lint_imports(tmp_path)
    verdicts = dict(re.findall(r"^(.*) (KEPT|BROKEN)(?: \(.*\))?$", done.stdout, flags=re.MULTILINE))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    assert len(contracts) == len(VIOLATIONS)
    assert verdicts == {contract["name"]: "BROKEN" for contract in contracts}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.prefix) / "bin" / "lint-imports"), "--no-logo", "--no-cache"]
    environment = {"COLUMNS": "300", "NO_COLOR": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
