"""docs/faults.md and the tests speak of the same faults, and each row names a test that bears its id."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[-1] for row in re.findall(r"^\| (F\d+) \|(.*)\| (.*) \|$", PAGE, re.MULTILINE)}


def names_by_fault() -> dict[str, set[str]]:
    """Id -> names of the test functions that bear it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_f\d\w*)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            for number in re.findall(r"(?<=_f)\d+(?=_)", re.match(r"test(_f\d+)+_", name).group()):  # type: ignore[union-attr]
                found.setdefault(f"F{number}", set()).add(name)
    return found


TESTS = names_by_fault()


def test_every_fault_that_a_test_bears_is_on_the_page_once() -> None:
    assert TESTS.keys() <= ROWS.keys()
    assert PAGE.count("\n| F") == len(ROWS)


@pytest.mark.parametrize("fault", ROWS)
def test_a_row_names_a_test_of_its_fault_or_there_is_none(fault: str) -> None:
    proof = ROWS[fault]
    if proof.startswith("none"):
        assert fault not in TESTS
    else:
        assert proof.strip("`") in TESTS.get(fault, set())
