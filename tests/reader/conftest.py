"""A root that holds the published tables."""

from pathlib import Path

import pytest
from deltalake import write_deltalake

from schemas.embeddings import CUSTOMER_EMBEDDINGS
from tests.reader.synthetic import HISTORY, LATEST, table_of, write_history


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with HISTORY, a version for each run, and LATEST."""
    write_history(tmp_path, HISTORY)
    write_deltalake(tmp_path / CUSTOMER_EMBEDDINGS.name, table_of(LATEST))
    return tmp_path
