"""What the reader brings along when it is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from caspr_spark.reader import read_run
from schemas.embeddings import CUSTOMER_EMBEDDINGS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("pyspark", "torch", "pandas", "polars", "pydantic", "caspr_spark.config", "caspr_spark.tables")


def test_the_reader_imports_neither_spark_nor_torch_nor_frames_that_nobody_asked_for() -> None:
    program = f"import sys, caspr_spark.reader; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_into_arrow_imports_no_spark_or_torch_either(root: Path) -> None:
    program = (
        "import sys, pyarrow as pa; from datetime import datetime, UTC; from caspr_spark.reader import *\n"
        "entities = pa.table({'customer_id': ['bob'], 'event_time': [datetime(2024, 1, 9, tzinfo=UTC)]})\n"
        f"root = {str(root)!r}\n"
        "print(read_as_of(root, entities)['run_id'].to_pylist(), read_latest(root, ['bob']).num_rows)\n"
        "print([name for name in ('pyspark', 'torch', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['r1'] 1", "[]"]


def test_arrow_reads_files_without_calling_python(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads may still do so when Python ends: one program in ten that ended right after reading was aborted."""

    def called(*_: object) -> None:
        raise AssertionError("a file was opened through Python")

    monkeypatch.setattr(DeltaStorageHandler, "open_input_file", called)
    assert read_run(root, "r1").num_rows == 2
    with pytest.raises(AssertionError, match="through Python"):
        DeltaTable(root / CUSTOMER_EMBEDDINGS.name).to_pyarrow_table()
