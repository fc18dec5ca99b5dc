"""Reading the configuration: base.yaml under one or more overlays, every mistake reported at once with its file."""

import difflib
import importlib.resources
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from caspr_spark.config import Config, Recipe, Task, overlaid
from caspr_spark.errors import ConfigError

Key = tuple[str, ...]
_BASE = "conf/base.yaml"
_MAX_BYTES = 1_000_000
_ARMS = {"rule", "rfm", "embedding", "both", "fused", "ease", "customers"}
"""Of the evaluation; a recipe is an arm of its own."""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a small file cannot grow without bound) and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            line = self.get_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"aliases are not allowed (line {line})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"key given twice: {', '.join(sorted(repeated))} (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


# YAML 1.2: true and false alone are booleans; `on`, `no` and `yes` are the words that they look like.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def load_config(paths: Sequence[str | Path]) -> Config:
    """The configuration of base.yaml and the overlays in `paths`, later ones winning.

    Raises:
        ConfigError: naming every mistake with its file and key, and the likely key for a typo.
    """
    base = (importlib.resources.files("conf") / "base.yaml").read_text(encoding="utf-8")
    layers = [(_BASE, _parse(_BASE, base)), *((str(path), _parse(str(path), _read(Path(path)))) for path in paths)]
    merged: dict[str, Any] = {}
    for _, content in layers:
        merged = overlaid(merged, content)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems = [_problem(layers, details) for details in error.errors()]
    else:
        problems = [f"{_owner(layers, key)}: {'.'.join(key)}: {text}" for key, text in _contradictions(config)]
        if not problems:
            return config
    raise ConfigError("the configuration has mistakes:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES:,} bytes; this is no configuration")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from None


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, _StrictLoader) or {}
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not readable as YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: expected a mapping of sections, found a {type(content).__name__}")
    return content


def _owner(layers: list[tuple[str, dict[str, Any]]], key: Key) -> str:
    """The last file that says something about `key`, or about the longest part of it that any file names."""
    for length in range(len(key), 0, -1):
        for name, content in layers[::-1]:
            node: Any = content
            for part in key[:length]:
                node = node[part] if isinstance(node, dict) and part in node else None
            if node is not None:
                return name
    return layers[-1][0]


def _problem(layers: list[tuple[str, dict[str, Any]]], details: Any) -> str:
    key = tuple(str(part) for part in details["loc"] if part != "[key]")
    file, dotted = _owner(layers, key), ".".join(key)
    if details["type"] == "extra_forbidden":
        siblings = _known_keys(Config, key[:-1])
        close = difflib.get_close_matches(key[-1], siblings, n=1)
        hint = f"did you mean '{'.'.join((*key[:-1], close[0]))}'?" if close else f"known here: {', '.join(siblings)}"
        return f"{file}: unknown key '{dotted}'; {hint}"
    if details["type"] == "missing":
        return f"{file}: '{dotted}' is missing"
    message: str = re.sub(r"^Value error, ", "", details["msg"])
    if details["type"] == "string_pattern_mismatch":
        message = "expected a name of small letters, digits and _, beginning with a letter"
    is_hidden = isinstance(details["input"], dict) or "options" in key  # an option may be a password
    found = "" if is_hidden else f", found {details['input']!r}"
    return f"{file}: '{dotted}': {message[:1].lower()}{message[1:]}{found}"


def _known_keys(model: Any, key: Key) -> list[str]:
    """The field names of the section at `key`."""
    for part in key:
        annotation = model.model_fields[part].annotation if _is_model(model) else model
        if get_origin(annotation) is dict:
            model = ("values", get_args(annotation)[1])
        elif isinstance(model, tuple):
            model = model[1]
        else:
            model = annotation
        if get_origin(model) is Union or (hasattr(model, "__args__") and not _is_model(model)):
            model = next((choice for choice in get_args(model) if _is_model(choice)), model)
    return list(model.model_fields) if _is_model(model) else []


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _contradictions(config: Config) -> list[tuple[Key, str]]:
    """What no single section can see: names that must agree over sources, profiles, tasks and the report."""
    problems: list[tuple[Key, str]] = []
    attributes = config.event_attributes
    for source_name, source in config.sources.items():
        for name, attribute in source.attributes.items():
            first = attributes[name]
            if (attribute.kind, attribute.max_values) != (first.kind, first.max_values):
                problems.append(
                    (
                        ("sources", source_name, "attributes", name),
                        f"declared as {attribute.kind} here and as {first.kind} (or with another max_values) by another"
                        " source; one name means one thing",
                    )
                )
    reserved = {"customer_id", "event_time", "event_id", "source", "session_id", "num_raw_rows", "num_values_cut"}
    reserved |= {"profile", "valid_from_time", "ending", "raw_row", "raw_file", "corrupt_record", "recency", "events"}
    reserved |= {"num_unreadable_numbers", *config.sequences.time_parts}
    seen: dict[str, Key] = {}
    for source_name, source in config.sources.items():
        for name in source.attributes:
            seen.setdefault(name, ("sources", source_name, "attributes", name))
    for profile_name, profile in config.profiles.items():
        for name in profile.attributes:
            place = ("profiles", profile_name, "attributes", name)
            if name in seen:
                problems.append((place, f"the name is taken by {'.'.join(seen[name])}; it needs one of its own"))
            seen[name] = place
    problems += [(place, "the name is reserved; choose another") for name, place in seen.items() if name in reserved]
    for task_name, task in config.evaluate.tasks.items():
        key = ("evaluate", "tasks", task_name)
        for field, named in (("source", task.source), ("event", task.event), ("after", task.after)):
            if named is not None and named not in config.sources:
                problems.append(((*key, field), f"no source '{named}'; there are {', '.join(config.sources)}"))
        chosen = config.sources.get(task.source)
        if chosen is not None and (
            task.money not in chosen.attributes or chosen.attributes[task.money].kind != "numerical"
        ):
            problems.append(((*key, "money"), f"'{task.money}' is no numerical attribute of source '{task.source}'"))
        problems += [((*key, field), found) for field, found in _attribute_problems(config, task)]
    wanted: list[tuple[str, str | None, set[str]]] = [
        ("money", config.report.money, {"numerical"}),
        ("describe_by", config.report.describe_by, {"categorical", "set"}),
    ]
    for field, chosen_name, kinds in wanted:
        if chosen_name is not None and (chosen_name not in attributes or attributes[chosen_name].kind not in kinds):
            problems.append((("report", field), f"'{chosen_name}' is no {' or '.join(sorted(kinds))} event attribute"))
    for field, names, tables in (
        ("volume.by_table", config.events.volume.by_table, config.activity_tables),
        ("freshness.by_source", config.events.freshness.by_source, config.sources),
        ("ahead.by_source", config.events.ahead.by_source, config.sources),
    ):
        unknown = [name for name in names if name not in tables]
        problems += [
            (("events", *field.split("."), name), f"no such table is declared; there are {', '.join(tables)}")
            for name in unknown
        ]
    for name in config.model.amounts or ():
        if name not in attributes or attributes[name].kind != "numerical":
            problems.append((("model", "amounts"), f"'{name}' is no numerical event attribute"))
    for name, recipe in config.evaluate.recipes.items():
        problems += _of_recipe(config, name, recipe)
    if not config.sources:
        problems.append((("sources",), "no source is declared; give --config with your tables"))
    if config.pretrain.launcher == "single" and config.pretrain.num_workers > 1:
        problems.append((("pretrain", "num_workers"), "launcher single is one process; choose another launcher"))
    return problems


def _of_recipe(config: Config, name: str, recipe: Recipe) -> list[tuple[Key, str]]:
    """What is wrong with a recipe once it is laid over the sections."""
    key = ("evaluate", "recipes", name)
    if name in _ARMS:
        return [(key, f"'{name}' is an arm already; choose another name")]
    try:
        config.with_recipe(recipe, seed=config.seed)
    except ValidationError as error:
        return [
            ((*key, *map(str, details["loc"])), re.sub(r"^Value error, ", "", details["msg"]))
            for details in error.errors()
        ]
    return []


def _attribute_problems(config: Config, task: Task) -> list[tuple[str, str]]:
    """(field of the task, what is wrong) of the attribute that it asks for."""
    if task.kind == "attribute":
        asked = config.profile_attributes.get(task.attribute or "")
        if asked is None:
            known = ", ".join(config.profile_attributes) or "none"
            return [("attribute", f"no profile has '{task.attribute}'; profile attributes are: {known}")]
        if (asked.kind == "categorical") != (task.values is not None):
            expected = (
                "list the values that mean yes" if task.values is None else "the number is guessed, without values"
            )
            return [("values", f"'{task.attribute}' is {asked.kind}; {expected}")]
    elif task.attribute is not None and (source := task.event or task.source) in config.sources:
        ranked = config.sources[source].attributes.get(task.attribute)
        if ranked is None or ranked.kind == "numerical":
            return [("attribute", f"'{task.attribute}' is no categorical or set attribute of source '{source}'")]
    return []
