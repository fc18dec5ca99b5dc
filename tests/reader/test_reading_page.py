"""docs/reading.md is run: its Python in order, and what it prints is what the page says."""

import contextlib
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS
from tests.reader.synthetic import SCHEMA

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reading.md").read_text(encoding="utf-8")
RUNS = (
    (datetime(2024, 5, 1, tzinfo=UTC), "7c1e", {"C001": 5}),
    (datetime(2024, 6, 1, tzinfo=UTC), "7c1e", {"C001": 7, "C002": 4}),
    (datetime(2024, 7, 1, tzinfo=UTC), "b02d", {"C001": 7, "C002": 4, "C003": 2}),
)


def rows_of(as_of: datetime, model: str, customers: dict[str, int]) -> Any:
    """A run with synthetic vectors; `customers` says how many events each of them has."""
    columns = [
        list(customers),
        [[0.5, 0.25, num_events, 1.0] for num_events in customers.values()],
        [as_of] * len(customers),
        [as_of - timedelta(hours=1)] * len(customers),
        list(customers.values()),
        [model] * len(customers),
        [f"{as_of:%Y%m%d}-{model}"] * len(customers),
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the root of the page: 7c1e is the champion, b02d the challenger."""
    root = tmp_path / "data" / "shop"
    for run in RUNS:
        write_deltalake(root / CUSTOMER_EMBEDDING_HISTORY.name, rows_of(*run), mode="append")
    latest = root / CUSTOMER_EMBEDDINGS.name
    write_deltalake(latest, rows_of(*RUNS[0]))
    write_deltalake(latest, rows_of(*RUNS[1]), mode="overwrite")
    monkeypatch.chdir(tmp_path)
    return root


def examples() -> list[tuple[str, str]]:
    """(Python, what it prints)."""
    return re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_python_of_the_page_prints_what_it_says(shop: Path) -> None:
    assert len(examples()) == PAGE.count("```python") == 7
    names: dict[str, Any] = {}
    for code, expected in examples():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == expected, code
