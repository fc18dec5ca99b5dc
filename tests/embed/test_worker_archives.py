"""What a Python worker of Spark spends at the start of each task on archives of modules."""

import importlib
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import create_autospec
from zipimport import zipimporter

import pyarrow as pa
import pytest

from caspr_spark.embed.score import _scorer
from caspr_spark.model.scoring import LoadedEncoder
from tests.pretrain.planted import layout_of


def _task() -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    """What a worker runs, of no rows."""
    layout = layout_of(16)
    encoder = create_autospec(LoadedEncoder, instance=True, layout=layout, columns=["num_events"])
    return _scorer([], layout, lambda: encoder, 0, 512, 1)


def archives() -> list[str]:
    return [path for path, finder in sys.path_importer_cache.items() if isinstance(finder, zipimporter)]


def test_archives_are_out_of_sight_until_they_are_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "modules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archived_first.py", "NUMBER = 1")
        file.writestr("archived_second.py", "NUMBER = 2")
    monkeypatch.syspath_prepend(str(archive))
    first = importlib.import_module("archived_first")
    assert str(archive) in archives()
    folders = [path for path in sys.path_importer_cache if path not in archives()]

    list(_task()([]))

    assert archives() == []
    assert [path for path in sys.path_importer_cache if path in folders] == folders
    assert importlib.import_module("archived_second").NUMBER == first.NUMBER + 1
    for name in ("archived_first", "archived_second"):
        del sys.modules[name]
