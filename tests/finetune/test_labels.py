"""A table of labels is taken as it is meant, or refused with everything that is wrong with it."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest

from caspr_spark.errors import ConfigError
from caspr_spark.pretrain.labels import read_labels

AS_OF = datetime(2024, 6, 1, tzinfo=UTC)
GOOD = pd.DataFrame({"customer_id": [f"{number:03}" for number in range(40)], "label": [0, 1] * 20})


def written(folder: Path, table: pd.DataFrame, kind: str = "parquet") -> Path:
    path = folder / f"labels.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path, index=False)
    return path


def refusal(folder: Path, table: pd.DataFrame, kind: str = "parquet") -> str:
    with pytest.raises(ConfigError) as error:
        read_labels(written(folder, table, kind), as_of=AS_OF)
    return str(error.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_stay_text_and_come_in_order(tmp_path: Path, kind: str) -> None:
    labels = read_labels(written(tmp_path, GOOD[::-1], kind), as_of=AS_OF)

    assert labels["customer_id"].tolist() == GOOD["customer_id"].tolist()
    assert labels["label"].tolist() == [0.0, 1.0] * 20
    assert labels["label"].dtype == "float64"


@pytest.mark.parametrize(
    "time", ["2024-06-01T00:00:00Z", "2024-06-01T02:00:00+02:00", AS_OF, AS_OF.astimezone(timezone(timedelta(hours=2)))]
)
def test_the_as_of_of_the_command_is_taken_in_any_zone(tmp_path: Path, time: str | datetime) -> None:
    assert len(read_labels(written(tmp_path, GOOD.assign(as_of=time)), as_of=AS_OF)) == 40


@pytest.mark.parametrize("time", ["2024-06-02T00:00:00Z", "2024-06-01T00:00:00", "soon", None, datetime(2024, 6, 1)])
def test_another_as_of_is_refused(tmp_path: Path, time: str | datetime | None) -> None:
    assert "as_of: expected 2024-06-01T00:00:00+00:00 of --as-of" in refusal(tmp_path, GOOD.assign(as_of=time))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_all_problems_are_told_at_once(tmp_path: Path, kind: str) -> None:
    table = GOOD.astype({"label": object})
    table.loc[0, "customer_id"] = None
    table.loc[2, "customer_id"] = "001"
    table["label"] = table["label"].astype(str)
    table.loc[5, "label"] = "many"
    table.loc[6, "label"] = "inf"
    said = refusal(tmp_path, table.assign(as_of="2020-01-01T00:00:00Z"), kind)
    assert "customer_id: 1 of 40 rows have none" in said
    assert "1 come again ('001')" in said
    assert "label: expected a finite number, 2 rows have none, the first 'many'" in said
    assert "as_of: expected" in said


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.assign(label=1), "expected 0 and 1, 15 customers of each at least, found 0 of 0 and 40 of 1"),
        (GOOD[:20], "found 10 of 0 and 10 of 1"),
        (GOOD.assign(label=2.5), "all customers have 2.5"),
        (GOOD[:3].assign(label=[1.5, 2, 3]), "expected 15 customers at least, found 3"),
        (GOOD.assign(label=[None, 1.0] * 20), "20 rows have none"),
        (GOOD[:0], "expected a row a customer, found none"),
        (GOOD.assign(customer_id=range(40)), "customer_id: expected text, as in the feature table, found 0"),
        (GOOD.rename(columns={"label": "churned"}), "not found: label; it has: customer_id, churned"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, table: pd.DataFrame, message: str) -> None:
    assert message in refusal(tmp_path, table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.parquet", None, "no such file"),
        ("labels.csv", None, "no such file"),
        ("labels.parquet", b"text", "not a Parquet file that can be read"),
        ("labels.csv", b"", "not a CSV file that can be read"),
        ("labels.csv", b"\xff\xfe\x00", "not a CSV file that can be read"),
        ("labels.xlsx", b"", "expected a name that ends in .csv or .parquet"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_labels(tmp_path / name, as_of=AS_OF)
