"""What a configuration calls things, and where it says they lie: SQL in a name and paths that mislead are refused."""

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caspr_spark.aliases import known_model
from caspr_spark.config import Source, plain_path
from caspr_spark.config_file import load_config
from caspr_spark.errors import ConfigError
from caspr_spark.events.places import table_location
from jobs.cli import main

SHOP = Path(__file__).parents[2] / "docs" / "example" / "shop.yaml"
AS_OF = "2024-06-01T00:00:00Z"
ATTRIBUTE = {"kind": "categorical"}
VISITS = {"format": "csv", "path": "a.csv", "entity": "c", "time": {"column": "t"}, "attributes": {"a": ATTRIBUTE}}
GOODS = {"format": "csv", "path": "b.csv", "on": {"a": "b"}, "columns": {"d": "e"}}
CHECK = {"rule": "true", "max_failed_share": 0, "on_fail": "warn"}
TASK = {"kind": "churn", "source": "visits", "active_days": 1, "horizon_days": 1, "money": "a"}
SQL = ["x; drop table events; --", "x' or '1'='1", "a`b", "union select", "../x", "/etc/passwd", "x\ny", "", "Ü", "a b"]


def is_name(text: str) -> bool:
    """What a name may be, without a regular expression."""
    allowed = set(string.ascii_lowercase + string.digits + "_")
    return 0 < len(text) <= 63 and set(text) <= allowed and text[0] in string.ascii_lowercase


def named(place: str, name: str) -> dict[str, Any]:
    """A configuration in which the thing at `place` has the name."""
    source: dict[str, Any] = dict(VISITS)
    configurations: dict[str, dict[str, Any]] = {
        "dataset": {"dataset": name},
        "source": {"sources": {name: source}},
        "profile": {"profiles": {name: {"format": "csv", "path": "a", "entity": "c", "attributes": {}}}},
        "attribute": {"sources": {"visits": source | {"attributes": {name: ATTRIBUTE}}}},
        "check": {"sources": {"visits": source | {"checks": {name: CHECK}}}},
        "lookup": {"sources": {"visits": source | {"lookups": {name: GOODS}}}},
        "task": {"sources": {"visits": source}, "evaluate": {"tasks": {name: TASK}}},
    }
    return configurations[place]


PLACES = ["dataset", "source", "profile", "attribute", "check", "lookup", "task"]


@pytest.mark.parametrize("place", PLACES)
def test_f92_a_name_is_letters_digits_and_underscores_whatever_else_is_tried(
    place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    overlay = tmp_path_factory.mktemp("names") / "names.yaml"

    @settings(max_examples=20, deadline=None)
    @given(st.one_of(st.sampled_from(SQL), st.text(max_size=80)).filter(lambda text: not is_name(text)))
    @example("a" * 64)
    def refused(name: str) -> None:
        overlay.write_text(yaml.safe_dump(named(place, name)), encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            load_config([SHOP, overlay])
        assert error.value.exit_code == 2
        assert "expected a name of small letters" in str(error.value)

    refused()


@pytest.mark.parametrize("key", ["root: {}", "monitor: {{alert_file: {}}}"])
@pytest.mark.parametrize(
    "path", ["file:///srv/x", "file:/srv/x", "s3://bucket/x", "dbfs:/x", "~/x", "${HOME}/x", "", " ", "a\nb", "a\0b"]
)
def test_f93_a_path_that_would_become_a_folder_of_another_name_is_refused(key: str, path: str, tmp_path: Path) -> None:
    overlay = tmp_path / "paths.yaml"
    overlay.write_text(key.format(yaml.safe_dump(path, default_style='"').strip()))
    with pytest.raises(ConfigError, match="expected a path such as data or /srv/data") as error:
        load_config([SHOP, overlay])
    assert error.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == [overlay]


@pytest.mark.parametrize("path", ["data", "/srv/x", "../x", "a/../b", "a:b", "Bücher", "x;y'z", "$5"])
def test_f93_the_users_own_paths_may_be_absolute_or_lead_upwards(path: str) -> None:
    assert plain_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "package://pandas/../../etc/passwd",
        "package://pandas//etc/passwd",
        "package://pandas/x/..",
        "package://../../etc/passwd",
        "package://pandas.nowhere.deeper/x",
        "package:///etc/passwd",
    ],
)
def test_f93_a_path_into_a_package_does_not_lead_out_of_it(path: str) -> None:
    source = Source.model_validate(VISITS | {"path": path})
    with pytest.raises(ConfigError, match=r"sources\.visits\.path") as error:
        table_location(source, "sources.visits")
    assert error.value.exit_code == 2


@given(st.one_of(st.sampled_from([*SQL, "..", ".", "../../etc", "m1/../../x", "aliases.json"]), st.text()))
def test_f93_a_model_is_one_that_is_there_and_no_path(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no model") as error:
        known_model(SHOP.parent, name)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("verb", ["embed-customers", "publish-embeddings", "refresh", "maintain"])
def test_f93_a_refused_path_ends_a_command_with_2_before_it_begins(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overlay = tmp_path / "root.yaml"
    overlay.write_text("root: file:///srv/caspr\n")
    time = [] if verb == "maintain" else ["--as-of", AS_OF]
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--config", str(SHOP), "--config", str(overlay), *time])
    assert stopped.value.code == 2
    assert "root.yaml: 'root': expected a path" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [overlay]
