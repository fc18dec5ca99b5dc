"""The request: its name, its ids, and tombstones that do not tell who they stand for."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.erase.requests import Request, checked_request_id, ids_hash, read_ids, refuse_unfinished, write_request
from caspr_spark.errors import ConfigError, UnsafeError
from caspr_spark.session import local_frame
from caspr_spark.tables import write_table
from caspr_spark.tombstones import customer_hash, secret_key, tombstones
from jobs.cli import main
from schemas.tombstones import TOMBSTONES


@pytest.mark.parametrize(
    "text", ["", "../up", "a/b", "/etc", "a\\b", ".", "..", ".hidden", "a b", "r\n", "é", "x" * 101]
)
def test_f93_a_request_id_is_no_path(text: str) -> None:
    with pytest.raises(ConfigError, match="request id") as error:
        checked_request_id(text)
    assert error.value.exit_code == 2


def test_ids_are_read_exactly(tmp_path: Path) -> None:
    place = tmp_path / "ids"
    place.write_bytes(b"\xef\xbb\xbfb 2\r\n\na1\nb 2\n c\n")
    assert read_ids(place) == [" c", "a1", "b 2"]


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xff\xfe", None])
def test_an_ids_file_that_names_nobody_is_refused(content: bytes | None, tmp_path: Path) -> None:
    place = tmp_path / "ids"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(ConfigError, match="--ids-file"):
        read_ids(place)


@pytest.mark.parametrize(
    "arguments", [[], ["verify"], ["verify", "r", "--request-id", "r"], ["verify", "r"], ["verify", "../r"]]
)
def test_wrong_usage_ends_with_2_and_tells_no_id(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay, ids = tmp_path / "overlay.yaml", tmp_path / "ids"
    overlay.write_text(f"root: {tmp_path / 'root'}\n")
    ids.write_text("canary-0001\n")
    shop = str(Path(__file__).parents[2] / "docs" / "example" / "shop.yaml")
    with pytest.raises(SystemExit) as stopped:
        main(["erase", *arguments, "--config", shop, "--config", str(overlay), "--ids-file", str(ids)])
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert "canary" not in shown.out + shown.err


def test_a_half_done_request_is_refused(tmp_path: Path) -> None:
    request: dict[str, Any] = {"requested": "2024-01-01", "num_customers": 1, "ids_hash": "", "program": ""}
    write_request(str(tmp_path), Request("done", **request, finished="2024-01-02"))
    refuse_unfinished(str(tmp_path))
    write_request(str(tmp_path), Request("half", **request))
    with pytest.raises(UnsafeError, match="'half' was not finished"):
        refuse_unfinished(str(tmp_path))


def test_f95_tombstones_know_customers_without_naming_them(spark: SparkSession, tmp_path: Path) -> None:
    root = str(tmp_path)
    assert tombstones(spark, root) is None
    key = secret_key(root)
    assert (len(key), key == secret_key(root), key == secret_key(str(tmp_path / "other"))) == (64, True, False)
    assert (tmp_path / "erasures" / "key").stat().st_mode & 0o777 == 0o600
    rows = [
        (customer_hash(key, customer), "r", datetime(2024, 1, 1, tzinfo=UTC)) for customer in ("c3", "7", "Ann Lee")
    ]
    types = "customer_hash string, request_id string, requested_time timestamp"
    write_table(local_frame(spark, rows, types), TOMBSTONES, root, mode="append")
    graves = tombstones(spark, root)
    assert graves is not None

    people = local_frame(spark, [("c3", 1), ("c33", 2), (None, 3), ("7", 4), ("C3", 5)], "`who.is` string, n int")
    of = F.col("`who.is`")
    assert [row["n"] for row in graves.erased(people, of).orderBy("n").collect()] == [1, 4]
    assert [row["n"] for row in graves.living(people, of).orderBy("n").collect()] == [2, 3, 5]
    assert key not in graves.living(people, of)._jdf.queryExecution().toString()  # type: ignore[operator]

    texts = {
        '{"who": "c3"}': True,
        '{"who": "c31", "amount": "7"}': False,  # a short number stands for anything
        '{"note": "Ann Lee"}': True,
        '{"note": "Ann", "by": "Lee"}': False,
        '{"who": "c3", broken': True,
        "1,c3,2024": True,
        "1,c3.1": False,
    }
    table = local_frame(spark, [(text,) for text in texts], "content string")
    named = {row["content"] for row in graves.naming(table, "content").collect()}
    assert named == {text for text, is_named in texts.items() if is_named}

    (tmp_path / "erasures" / "key").unlink()
    for asked in (lambda: tombstones(spark, root), lambda: ids_hash(root, ["c3"])):
        with pytest.raises(UnsafeError, match="key of the tombstones is gone"):
            asked()
