"""The models of a root as tables to look at, and the changes of their aliases."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pandas as pd
from pyspark.sql import SparkSession

from caspr_spark.aliases import (
    Aliases,
    change_aliases,
    known_model,
    read_aliases,
    rolled_back,
    with_champion,
)
from caspr_spark.config import Config
from caspr_spark.errors import CasprError, ConfigError, UnsafeError
from caspr_spark.registry import checkpoint_folder, kept_models, read_card, verified_index
from caspr_spark.runs import Run, run_before
from caspr_spark.tables import table_exists
from pipelines.latest_vectors import switch_champion
from pipelines.summary import Summary
from schemas.embeddings import latest_of

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
_TIME = "%Y-%m-%d %H:%M:%S"


def model_table(spark: SparkSession, config: Config) -> pd.DataFrame:
    """One row a kept model, the newest first. Raises CasprError where there is none."""
    aliases, rows = read_aliases(config.root), []
    for version, model in reversed(kept_models(config.root).items()):
        card, run = read_card(config.root, version), _newest_run(spark, config, version)
        rows.append(
            {
                "model": version,
                "alias": aliases.alias_of(version),
                "trained as of": f"{model.as_of:{_TIME}}" if model else "damaged",
                "customers": f"{card.customers:,}" if card else "",
                "loss": f"{card.loss:.3f}" if card else "",
                "parent": card.parent or "" if card else "",
                "vectors as of": f"{run.as_of:{_TIME}}" if run else "",
            }
        )
    if not rows:
        raise CasprError(f"{config.root}: there is no model yet; run full-build first")
    return pd.DataFrame(rows)


def model_facts(spark: SparkSession, config: Config, name: str) -> pd.DataFrame:
    """All that is known of one model, by its version or alias. Raises ConfigError where there is none."""
    version = known_model(config.root, name)
    run = _newest_run(spark, config, version)
    facts: list[tuple[str, Any]] = [
        ("alias", read_aliases(config.root).alias_of(version)),
        ("bytes", _soundness(config.root, version)),
        ("newest run", run.run_id if run else ""),
    ]
    if (card := read_card(config.root, version)) is not None:
        for key, value in card.model_dump(mode="json", exclude={"scores"}).items():
            facts += [(f"{key}.{part}", one) for part, one in value.items()] if key == "settings" else [(key, value)]
        facts += [
            (f"{row['task']} {row['metric']} {row['arm']} as of {row['as_of']}", f"{row['mean']:.4f}")
            for row in card.scores
        ]
    return pd.DataFrame([(key, "" if value is None else str(value)) for key, value in facts], columns=["name", "value"])


def set_champion(spark: SparkSession, config: Config, name: str) -> Summary:
    """Let readers get the vectors of another model, which must be as fresh as the present champion's.

    Raises:
        ConfigError: there is no such model.
        UnsafeError: it is damaged, or its vectors are older than the champion's.
    """
    version, aliases = known_model(config.root, name), read_aliases(config.root)
    if version == aliases.champion:
        return Summary("models", 1, 1, (f"{version} is the champion already",), changed=False)
    verified_index(checkpoint_folder(config.root, version))
    ours = _newest_run(spark, config, version)
    theirs = _newest_run(spark, config, aliases.champion) if aliases.champion else None
    if ours is None or (theirs is not None and ours.as_of < theirs.as_of):
        found = f"as of {ours.as_of.isoformat()}" if ours else "none"
        wanted = f", the champion as of {theirs.as_of.isoformat()}" if theirs else ""
        raise UnsafeError(
            f"{config.root}: {version} has vectors {found}{wanted}; readers would lose what is newer. Run "
            f"`caspr-spark models set challenger {version}`, then `caspr-spark refresh`, then this again"
        )
    return _switched(switch_champion(spark, config.root, partial(with_champion, version=version)), aliases)


def roll_back(spark: SparkSession, config: Config) -> Summary:
    """Take back the last switch of champions, however old the vectors of the one before are by now.

    Raises:
        ConfigError: there was no switch.
        UnsafeError: the champion before is damaged or was deleted.
    """
    before = read_aliases(config.root)
    version = str(rolled_back(before).champion)
    verified_index(checkpoint_folder(config.root, version))
    if not table_exists(spark, latest_of(version), config.root):
        raise UnsafeError(f"{config.root}: the latest vectors of {version} are gone; nothing was changed")
    summary = _switched(switch_champion(spark, config.root, rolled_back), before)
    run = _newest_run(spark, config, version)
    age = f"its vectors are as of {run.as_of.isoformat()}; the next refresh brings them up to date" if run else ""
    return Summary("models", 1, 1, (*summary.notes, *filter(None, [age])))


def set_challenger(config: Config, name: str | None) -> Summary:
    """Score another model beside the champion from the next refresh on; None: none.

    Raises:
        ConfigError: there is no such model, or it is the champion.
        UnsafeError: it is damaged.
    """
    before = read_aliases(config.root)
    version = None if name is None else known_model(config.root, name)
    if version is not None:
        if version == before.champion:
            raise ConfigError(f"{version} is the champion; set another champion first, it will then be the challenger")
        verified_index(checkpoint_folder(config.root, version))
    after = change_aliases(config.root, lambda aliases: aliases.model_copy(update={"challenger": version}))
    return _switched(after, before)


def _switched(after: Aliases, before: Aliases) -> Summary:
    notes = [
        f"{alias}: {getattr(after, alias) or 'none'} (was {getattr(before, alias) or 'none'})"
        for alias in ("champion", "challenger")
        if getattr(after, alias) != getattr(before, alias)
    ]
    return Summary("models", 1, 1, tuple(notes), changed=bool(notes))


def _soundness(root: str, version: str) -> str:
    try:
        verified_index(checkpoint_folder(root, version))
    except CasprError as error:
        return str(error)
    return "as they were written"


def _newest_run(spark: SparkSession, config: Config, version: str) -> Run | None:
    return run_before(spark, config.root, as_of=_FOREVER, model_version=version)
