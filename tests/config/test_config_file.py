"""What is read from the configuration files, and what a user is told about the mistakes in them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from caspr_spark.config_file import load_config
from caspr_spark.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
SOURCE = "{format: csv, path: a.csv, entity: customer, time: {column: at, zone: UTC}, attributes: {}}"
VALID = f"dataset: shop\nsources:\n  visits: {SOURCE}\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write an overlay into the working directory; its path in messages is its bare name."""
    monkeypatch.chdir(tmp_path)

    def write_overlay(text: str, name: str = "shop.yaml") -> Path:
        Path(name).write_text(text, encoding="utf-8")
        return Path(name)

    return write_overlay


def problems(*paths: Path) -> list[str]:
    """The lines that a user reads, without their bullets."""
    with pytest.raises(ConfigError) as error:
        load_config(paths)
    assert error.value.exit_code == 2
    return [line.removeprefix("  - ") for line in str(error.value).splitlines()]


def test_all_mistakes_are_reported_at_once_with_file_key_expected_and_found(write: Write) -> None:
    overlay = write(
        """
dataset: Shop Data
seed: seven
sequences: {max_event: 32, validation_share: 1.5}
model: {width: 65}
sources:
  visits:
    format: exel
    path: a.csv
    entity: customer
    time: {column: at, zone: Europe/Berln}
    attributes:
      basket: {kind: set}
      spend: {kind: numerical, column: a, expression: a + b}
"""
    )

    assert problems(overlay) == [
        "the configuration has mistakes:",
        "shop.yaml: 'dataset': expected a name of small letters, digits and _, beginning with a letter, "
        "found 'Shop Data'",
        "shop.yaml: 'seed': input should be a valid integer, unable to parse string as an integer, found 'seven'",
        "shop.yaml: 'sources.visits.format': input should be 'csv', 'json', 'parquet', 'delta', 'table' or 'jdbc', "
        "found 'exel'",
        "shop.yaml: 'sources.visits.time.zone': expected a time zone such as UTC or Europe/Berlin, "
        "found 'Europe/Berln'",
        "shop.yaml: 'sources.visits.attributes.basket': 'max_values' is needed for kind set, and only there",
        "shop.yaml: 'sources.visits.attributes.spend': give either 'column' or 'expression', not both",
        "shop.yaml: 'sequences.validation_share': input should be less than or equal to 1, found 1.5",
        "shop.yaml: unknown key 'sequences.max_event'; did you mean 'sequences.max_events'?",
        "shop.yaml: 'model': 'width' 65 is not a multiple of 'num_heads' 4",
    ]


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("sequence: {}", "unknown key 'sequence'; did you mean 'sequences'?"),
        ("events: {check: {}}", "unknown key 'events.check'; did you mean 'events.checks'?"),
        (
            f"sources: {{visits: {SOURCE[:-1]}, entitty: x}}}}",
            "unknown key 'sources.visits.entitty'; did you mean 'sources.visits.entity'?",
        ),
        (
            "sources: {visits: {attributes: {spend: {kind: numerical, agregate: sum}}}}",
            "unknown key 'sources.visits.attributes.spend.agregate'; "
            "did you mean 'sources.visits.attributes.spend.aggregate'?",
        ),
        (
            "sources: {visits: {time: {colum: at}}}",
            "unknown key 'sources.visits.time.colum'; did you mean 'sources.visits.time.column'?",
        ),
        (
            "sources: {visits: {lookups: {goods: {pth: x}}}}",
            "unknown key 'sources.visits.lookups.goods.pth'; did you mean 'sources.visits.lookups.goods.path'?",
        ),
        (
            "sources: {visits: {sessions: {idle_minute: 5}}}",
            "unknown key 'sources.visits.sessions.idle_minute'; did you mean 'sources.visits.sessions.idle_minutes'?",
        ),
        ("embed: {zzz: 1}", "unknown key 'embed.zzz'; known here: batch_size, threads, runtime, max_failed_share"),
    ],
)
def test_an_unknown_key_comes_with_the_likely_one(write: Write, text: str, suggestion: str) -> None:
    assert f"shop.yaml: {suggestion}" in problems(write(text))


def test_a_mistake_is_reported_with_the_file_that_made_it(write: Write) -> None:
    good, bad = write(VALID), write("pretrain: {patience: 0}\n", "cluster.yaml")

    assert problems(good, bad)[1:] == ["cluster.yaml: 'pretrain.patience': input should be greater than 0, found 0"]
    assert problems(bad, good)[1:] == ["cluster.yaml: 'pretrain.patience': input should be greater than 0, found 0"]


def test_contradictions_between_sections_are_reported_together(write: Write) -> None:
    overlay = write(
        """
sources:
  a:
    {format: csv, path: a.csv, entity: c, time: {column: t},
     attributes: {spend: {kind: numerical}, hour: {kind: numerical}}}
  b: {format: csv, path: b.csv, entity: c, time: {column: t}, attributes: {spend: {kind: categorical}}}
profiles:
  people: {format: csv, path: p.csv, entity: c, attributes: {spend: {kind: numerical}}}
evaluate:
  tasks:
    churn: {kind: churn, source: c, active_days: 5, horizon_days: 5, money: spend}
    call: {kind: event, event: calls, source: a, after: b, active_days: 5, horizon_days: 5, money: hour}
    next: {kind: next_values, source: a, attribute: hour, active_days: 5, horizon_days: 5, money: hour}
    big: {kind: event, event: b, source: a, attribute: hour, values: [x], active_days: 5, horizon_days: 5, money: hour}
report: {money: revenue}
pretrain: {num_workers: 2}
model: {amounts: [hour, b, revenue]}
"""
    )

    assert problems(overlay)[1:] == [
        "shop.yaml: sources.b.attributes.spend: declared as categorical here and as numerical (or with another "
        "max_values) by another source; one name means one thing",
        "shop.yaml: profiles.people.attributes.spend: the name is taken by sources.a.attributes.spend; "
        "it needs one of its own",
        "shop.yaml: sources.a.attributes.hour: the name is reserved; choose another",
        "shop.yaml: evaluate.tasks.churn.source: no source 'c'; there are a, b",
        "shop.yaml: evaluate.tasks.call.event: no source 'calls'; there are a, b",
        "shop.yaml: evaluate.tasks.next.attribute: 'hour' is no categorical or set attribute of source 'a'",
        "shop.yaml: evaluate.tasks.big.attribute: 'hour' is no categorical or set attribute of source 'b'",
        "shop.yaml: report.money: 'revenue' is no numerical event attribute",
        "shop.yaml: model.amounts: 'b' is no numerical event attribute",
        "shop.yaml: model.amounts: 'revenue' is no numerical event attribute",
        "shop.yaml: pretrain.num_workers: launcher single is one process; choose another launcher",
    ]


def test_a_task_names_what_its_kind_asks_for_and_nothing_else(write: Write) -> None:
    task = "source: a, active_days: 5, horizon_days: 5, money: spend"
    overlay = write(f"evaluate: {{tasks: {{call: {{kind: event, {task}}}, churn: {{kind: churn, event: a, {task}}}}}}}")
    found = "kind event needs `event`, the source that is asked for; no other kind has it"
    assert problems(overlay)[1:] == [f"shop.yaml: 'evaluate.tasks.{name}': {found}" for name in ("call", "churn")]
    overlay = write(
        f"evaluate: {{tasks: {{a: {{kind: next_values, {task}}}, b: {{kind: churn, attribute: a, {task}}}}}}}"
    )
    found = "kinds next_values, first_value and attribute need `attribute`; churn and value have none"
    assert problems(overlay)[1:] == [f"shop.yaml: 'evaluate.tasks.{name}': {found}" for name in ("a", "b")]
    overlay = write(f"evaluate: {{tasks: {{a: {{kind: next_values, attribute: c, after: d, {task}}}}}}}")
    found = "kind next_values asks the customers of `source`; it has no `after`"
    assert problems(overlay)[1:] == [f"shop.yaml: 'evaluate.tasks.a': {found}"]
    overlay = write(f"evaluate: {{tasks: {{a: {{kind: churn, values: [b], {task}}}}}}}")
    assert problems(overlay)[1:] == [
        "shop.yaml: 'evaluate.tasks.a': `values` are of the kinds attribute and event alone"
    ]
    overlay = write(f"evaluate: {{tasks: {{a: {{kind: event, event: b, values: [c], {task}}}}}}}")
    found = "kind event has `attribute` and `values` together, or neither"
    assert problems(overlay)[1:] == [f"shop.yaml: 'evaluate.tasks.a': {found}"]
    overlay = write(f"evaluate: {{tasks: {{a: {{kind: churn, ignored: [b], {task}}}}}}}")
    found = "`ignored` is of the kinds next_values and first_value alone"
    assert problems(overlay)[1:] == [f"shop.yaml: 'evaluate.tasks.a': {found}"]


def test_what_is_known_at_the_cut_has_no_horizon_and_all_else_has_one(write: Write) -> None:
    task = "source: a, active_days: 5, money: spend"
    of_churn, of_attribute = f"{{kind: churn, {task}}}", f"{{kind: attribute, attribute: b, horizon_days: 5, {task}}}"
    overlay = write(f"evaluate: {{tasks: {{a: {of_churn}, b: {of_attribute}}}}}")
    found = "`horizon_days` is needed, but for kind attribute: what it asks for is known at the cut"
    assert problems(overlay)[1:] == [f"shop.yaml: 'evaluate.tasks.{name}': {found}" for name in ("a", "b")]


def test_an_attribute_task_asks_for_a_profile_and_lists_what_means_yes(write: Write) -> None:
    task = "kind: attribute, source: a, active_days: 5, money: spend"
    overlay = write(
        f"""
sources:
  a: {{format: csv, path: a.csv, entity: c, time: {{column: t}}, attributes: {{spend: {{kind: numerical}}}}}}
profiles:
  people:
    {{format: csv, path: p.csv, entity: c,
     attributes: {{income: {{kind: categorical}}, age: {{kind: numerical}}}}}}
evaluate:
  tasks:
    wrong: {{{task}, attribute: spend}}
    income: {{{task}, attribute: income}}
    age: {{{task}, attribute: age, values: ["30"]}}
    high_income: {{{task}, attribute: income, values: [high]}}
    age_itself: {{{task}, attribute: age}}
"""
    )
    assert problems(overlay)[1:] == [
        "shop.yaml: evaluate.tasks.wrong.attribute: no profile has 'spend'; profile attributes are: income, age",
        "shop.yaml: evaluate.tasks.income.values: 'income' is categorical; list the values that mean yes",
        "shop.yaml: evaluate.tasks.age.values: 'age' is numerical; the number is guessed, without values",
    ]


def test_a_recipe_must_fit_into_the_sections_that_it_changes(write: Write) -> None:
    overlay = write(
        "evaluate: {recipes: {rfm: {}, wide: {model: {width: 50}}, typo: {pretrain: {max_epoch: 3}},"
        " masked: {model: {objectives: {future: 0.0, masked: 1.0}, encoder: caspr, pooling: attention}}}}"
    )
    found = [problem for problem in problems(overlay)[1:] if "recipes" in problem]
    assert found == [
        "shop.yaml: evaluate.recipes.rfm: 'rfm' is an arm already; choose another name",
        "shop.yaml: evaluate.recipes.wide: 'width' 50 is not a multiple of 'num_heads' 4",
        "shop.yaml: evaluate.recipes.typo.max_epoch: Extra inputs are not permitted",
    ]


def test_no_source_is_a_mistake(write: Write) -> None:
    assert problems()[1:] == ["conf/base.yaml: sources: no source is declared; give --config with your tables"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: &x [1]\nb: *x\n", "aliases are not allowed (line 2)"),
        ("a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n", "aliases are not allowed (line 2)"),
        ("seed: 1\ndataset: x\nseed: 2\n", "key given twice: seed (line 1)"),
        ("sources:\n  a: {path: x, path: y}\n", "key given twice: path (line 2)"),
        ("seed: !!python/object/apply:os.system ['true']\n", "could not determine a constructor for the tag"),
        ("seed: !mine 5\n", "could not determine a constructor for the tag"),
        ("seed: [1\n", "expected ',' or ']'"),
        ("- a\n- b\n", "expected a mapping of sections, found a list"),
        ("just text", "expected a mapping of sections, found a str"),
        ("dataset: 2024-13-45\n", "month must be in 1..12"),
        ("seed: !!int many\n", "invalid literal for int()"),
        ("? [a, b]\n: 1\n", "unhashable"),
        ("a: " + "[" * 5000 + "]" * 5000, "maximum recursion depth exceeded"),
    ],
)
def test_f96_yaml_that_is_more_than_plain_data_is_refused(write: Write, text: str, complaint: str) -> None:
    found = problems(write(text))

    assert found[0].startswith("shop.yaml: ")
    assert complaint in "\n".join(found)


def test_f96_a_large_file_is_refused_unread(write: Write) -> None:
    assert problems(write("#" * 1_000_001)) == [
        "shop.yaml: larger than 1,000,000 bytes; this is no configuration",
    ]


def test_an_unreadable_file_is_named(write: Write, tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("dataset: caf\xe9".encode("latin-1"))

    assert problems(Path("nowhere.yaml")) == ["nowhere.yaml: no such file"]
    assert problems(Path("latin.yaml"))[0].startswith("latin.yaml: cannot be read as text")
    assert problems(tmp_path)[0].startswith(f"{tmp_path}: cannot be read as text")


def test_on_no_and_yes_stay_words_and_true_is_a_boolean(write: Write) -> None:
    written = "{on: yes, off: no, strict: true, lax: false}"
    overlay = write(VALID + f"events: {{gate: {{mine: {{expectation: X, arguments: {written}, on_fail: warn}}}}}}\n")

    arguments = load_config([overlay]).events.gate["mine"].arguments

    assert arguments == {"on": "yes", "off": "no", "strict": True, "lax": False}


def test_a_lookup_is_declared_with_on(write: Write) -> None:
    lookup = "{format: csv, path: g.csv, on: {item: id}, columns: {kind: kind}}"
    overlay = write(f"sources: {{visits: {SOURCE[:-1]}, lookups: {{goods: {lookup}}}}}}}")

    assert load_config([overlay]).sources["visits"].lookups["goods"].on == {"item": "id"}


def test_later_overlays_win_key_by_key(write: Write) -> None:
    first = write(VALID + "seed: 5\nsequences: {max_events: 32, min_count: 2, time_parts: [hour, month]}\n", "a.yaml")
    second = write("sequences: {max_events: 16, time_parts: [weekday]}\n", "b.yaml")

    config, other_way = load_config([first, second]), load_config([second, first])

    assert (config.seed, config.sequences.max_events, config.sequences.min_count) == (5, 16, 2)
    assert config.sequences.time_parts == ["weekday"]  # a list is replaced, not merged
    assert other_way.sequences.max_events == 32
    assert config.sequences.customers_per_row_group == 5000  # conf/base.yaml


def test_an_overlay_may_loosen_one_key_of_a_base_check(write: Write) -> None:
    overlay = write(VALID + "events: {checks: {time_present: {on_fail: warn}}}\n")

    check = load_config([overlay]).events.checks["time_present"]

    assert (check.rule, check.max_failed_share, check.on_fail) == ("event_time is not null", 0.01, "warn")


@pytest.mark.parametrize("overlay", [path for path in CONF.glob("*.yaml") if path.name != "base.yaml"], ids=str)
def test_every_overlay_in_conf_is_valid(overlay: Path) -> None:
    below = {"soak.yaml": [CONF / "bank.yaml"]}.get(overlay.name, [])
    assert load_config([*below, overlay]).sources


def test_f94_the_value_of_a_reader_option_is_not_shown(write: Write) -> None:
    source = (
        "{format: jdbc, options: {url: u, dbtable: t, password: 271828}, entity: c, time: {column: t}, attributes: {}}"
    )

    found = "\n".join(problems(write(f"sources: {{a: {source}}}")))

    assert "sources.a.options.password" in found
    assert "271828" not in found
