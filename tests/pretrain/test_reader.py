"""Every customer once, in an order that follows from the seed, and from no file that the manifest does not name."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caspr_spark.errors import CasprError, ConfigError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import SequenceManifest, read_manifest, write_manifest
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.reader import Rows, SequenceReader, check_sequence_files
from tests.pretrain.planted import FilePlan, model_section, planted_rows, pretrain_section, write_planted

PLANS = [FilePlan("training", (30, 12)), FilePlan("validation", (9,)), FilePlan("training", (50, 8, 17))]
ALL_ROWS = planted_rows(126)
TRAINING_KEYS = [*ALL_ROWS["customer_key"][:42], *ALL_ROWS["customer_key"][51:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_planted(tmp_path / "sequences", PLANS)
    return tmp_path / "sequences"


def reader(folder: Path, rank: int = 0, size: int = 1) -> SequenceReader:
    return SequenceReader(folder, read_manifest(folder), "training", rank=rank, size=size)


def keys(batches: Iterator[Rows]) -> list[int]:
    return [int(key) for batch in batches for key in batch["customer_key"]]


def test_all_columns_but_the_customers_name_arrive_as_they_were_written(folder: Path) -> None:
    (batch,) = reader(folder).batches(1000, shuffle_seed=None)

    assert sorted(batch) == sorted(set(ALL_ROWS) - {"customer_id"})
    for name, values in batch.items():
        expected = np.concatenate([ALL_ROWS[name][:42], ALL_ROWS[name][51:]])
        np.testing.assert_array_equal(values, expected, err_msg=name)
        assert values.dtype == expected.dtype


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_every_customer_comes_once_in_full_batches(folder: Path, shuffle_seed: int | None) -> None:
    batches = list(reader(folder).batches(25, shuffle_seed=shuffle_seed))

    assert [len(batch["num_events"]) for batch in batches] == [25, 25, 25, 25, 17]
    assert sorted(keys(iter(batches))) == sorted(TRAINING_KEYS)


def test_the_order_follows_from_the_seed(folder: Path) -> None:
    first, again, other = (keys(reader(folder).batches(25, shuffle_seed=seed)) for seed in (3, 3, 4))

    assert first == again
    assert first != other
    assert keys(reader(folder).batches(25, shuffle_seed=None)) == TRAINING_KEYS


def test_row_groups_go_round_the_ranks_whatever_their_order(folder: Path) -> None:
    """Five row groups of 30, 12, 50, 8, 17: rank 0 takes the first, third and fifth."""
    readers = [reader(folder, rank, 2) for rank in (0, 1)]
    seen = [keys(one.batches(25, shuffle_seed=5)) for one in readers]

    assert readers[0].rows_by_rank == readers[1].rows_by_rank == [97, 20]
    assert [len(of_rank) for of_rank in seen] == [97, 20]
    assert sorted(seen[1]) == sorted([*TRAINING_KEYS[30:42], *TRAINING_KEYS[92:100]])
    assert sorted(seen[0] + seen[1]) == sorted(TRAINING_KEYS)


def test_more_ranks_than_row_groups_are_a_mistake_for_training_and_none_for_validation(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"6 workers .* found 5; lower sequences.customers_per_row_group"):
        reader(folder, 0, 6)

    validation = [SequenceReader(folder, read_manifest(folder), "validation", rank=rank, size=3) for rank in range(3)]
    assert validation[0].rows_by_rank == [9, 0, 0]
    assert [len(keys(one.batches(4, shuffle_seed=None))) for one in validation] == [9, 0, 0]


def test_chosen_customers_come_from_the_files_of_every_split_once(folder: Path) -> None:
    """Row groups of 30, 12, 9, 50, 8, 17, files in the order of their names: two of the second, none of the fifth."""
    chosen = ALL_ROWS["customer_key"][[0, 5, 31, 40, 45, 60, 125]]
    of_ranks = [
        SequenceReader(folder, read_manifest(folder), "training", rank=rank, size=2, keys=chosen) for rank in (0, 1)
    ]
    seen = [keys(one.batches(3, shuffle_seed=7)) for one in of_ranks]

    assert of_ranks[0].rows_by_rank == [3, 4]
    assert sorted(seen[0]) == sorted(chosen[[0, 1, 4]].tolist())
    assert sorted(seen[0] + seen[1]) == sorted(chosen.tolist())
    with pytest.raises(ConfigError, match=r"3 workers need a row group .* found 1"):
        SequenceReader(folder, read_manifest(folder), "training", rank=0, size=3, keys=chosen[:1])


UNISCHEMA = b"dataset-toolkit.unischema.v1"
PAYLOAD = b"cbuiltins\nopen\n(S'%s'\nS'w'\ntR."
"""A pickle that makes a file where it is loaded. Petastorm loads it, for it is `builtins` only."""


def test_f90_the_payload_works_on_petastorm_itself(folder: Path) -> None:
    """Otherwise the next test would show nothing."""
    from petastorm.etl.dataset_metadata import get_schema_from_dataset_url

    marker = folder.parent / "marker"
    pq.write_metadata(
        pa.schema([("a", pa.int64())], {UNISCHEMA: PAYLOAD % str(marker).encode()}), folder / "_common_metadata"
    )

    get_schema_from_dataset_url(f"file://{folder}")

    assert marker.exists()


@pytest.mark.parametrize("name", ["_common_metadata", "_metadata"])
def test_f90_a_folder_with_petastorms_metadata_is_refused_before_it_is_opened(folder: Path, name: str) -> None:
    marker = folder.parent / "marker"
    pq.write_metadata(pa.schema([("a", pa.int64())], {UNISCHEMA: PAYLOAD % str(marker).encode()}), folder / name)

    with pytest.raises(UnsafeError, match=f"{name}: such a file can make the reader run code"):
        reader(folder)
    with pytest.raises(UnsafeError, match=name):
        pretrain(folder, model=model_section(), pretrain=pretrain_section(), seed=1, root=folder.parent, progress=None)
    assert not marker.exists()


def test_a_changed_file_is_refused_by_name(folder: Path) -> None:
    manifest = read_manifest(folder)
    check_sequence_files(folder, manifest)
    content = bytearray((folder / "part-2.parquet").read_bytes())
    content[100] ^= 1
    (folder / "part-2.parquet").write_bytes(content)

    with pytest.raises(UnsafeError, match=r"part-2.parquet: expected sha256"):
        check_sequence_files(folder, manifest)


def test_a_missing_file_and_one_outside_of_the_folder_are_refused(folder: Path) -> None:
    outside = json.loads((folder / "manifest.json").read_text())
    outside["files"][0]["path"] = "../other.parquet"
    with pytest.raises(UnsafeError, match="outside of the folder"):
        SequenceReader(folder, SequenceManifest.model_validate(outside), "training", rank=0, size=1)

    (folder / "part-0.parquet").unlink()
    with pytest.raises(UnsafeError, match=r"part-0.parquet: the manifest names this file, found none"):
        reader(folder)


def test_a_footer_that_contradicts_the_manifest_is_told(folder: Path) -> None:
    told = json.loads((folder / "manifest.json").read_text())
    told["files"][0]["rows"] = 43

    with pytest.raises(CasprError, match="the manifest says 43 rows in 2 row groups, found 42 in 2"):
        SequenceReader(folder, SequenceManifest.model_validate(told), "training", rank=0, size=1)


@pytest.mark.parametrize(
    ("broken", "message"),
    [([[1, 2], [3]], "'sets' must hold lists of one length"), ([[1, None], [3, 4]], "'sets' must not hold nulls")],
)
def test_lists_that_are_no_matrix_are_refused(folder: Path, broken: list[list[int]], message: str) -> None:
    table = pq.read_table(folder / "part-1.parquet").slice(0, 2)
    position = table.column_names.index("sets")
    table = table.set_column(position, "sets", pa.array(broken, pa.list_(pa.int32())))
    pq.write_table(table, folder / "part-1.parquet")
    manifest = read_manifest(folder)
    file = manifest.files[1].model_copy(update={"rows": 2, "sha256": file_sha256(folder / "part-1.parquet")})
    write_manifest(manifest.model_copy(update={"files": (file,)}), folder)

    with pytest.raises(UnsafeError, match=message):
        keys(SequenceReader(folder, read_manifest(folder), "validation", rank=0, size=1).batches(9, shuffle_seed=None))
