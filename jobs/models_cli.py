"""`caspr-spark models`: the models that are kept, and which of them is in use."""

from enum import StrEnum
from typing import Annotated

import typer

from caspr_spark.config_file import load_config
from caspr_spark.lease import lease
from jobs.console import console, shown_step, shown_table
from jobs.options import ConfigPaths
from jobs.running import session

models = typer.Typer(name="models", help="The models that are kept, and which of them is in use.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(help="A version of `models ls`, champion or challenger.")]


class Alias(StrEnum):
    """What a model can be."""

    champion = "champion"
    challenger = "challenger"


class Retirable(StrEnum):
    """What a model can cease to be; there is always a champion."""

    challenger = "challenger"


@models.command("ls")
def models_ls(config: ConfigPaths) -> None:
    """The models that are kept, newest first."""
    from pipelines.models import model_table

    settings = load_config(config)
    with session(settings, "models", writes=False) as spark:
        console.print(shown_table(f"Models in {settings.root}", model_table(spark, settings)))


@models.command("show")
def models_show(config: ConfigPaths, model: ModelName) -> None:
    """The card of a model: what it was trained on, how well, and its scores."""
    from pipelines.models import model_facts

    settings = load_config(config)
    with session(settings, "models", writes=False) as spark:
        console.print(shown_table(model, model_facts(spark, settings, model)))


@models.command("set")
def models_set(config: ConfigPaths, alias: Annotated[Alias, typer.Argument()], model: ModelName) -> None:
    """Make a model the champion, whose vectors readers get, or the challenger, scored beside it."""
    from pipelines.models import set_challenger, set_champion

    settings = load_config(config)
    if alias is Alias.challenger:
        with lease(settings.root, wait_seconds=settings.refresh.wait_seconds):
            shown_step("models", lambda: set_challenger(settings, model))
        return
    with session(settings, "models") as spark:
        shown_step("models", lambda: set_champion(spark, settings, model))


@models.command("unset")
def models_unset(config: ConfigPaths, alias: Annotated[Retirable, typer.Argument()]) -> None:
    """Score no model beside the champion any more."""
    from pipelines.models import set_challenger

    settings = load_config(config)
    with lease(settings.root, wait_seconds=settings.refresh.wait_seconds):
        shown_step("models", lambda: set_challenger(settings, None))


@models.command("export")
def models_export(config: ConfigPaths, model: ModelName) -> None:
    """Write the encoder of a model as an ONNX file into the model's folder, to score without torch or Spark."""
    from pipelines.export_model import export_model

    settings = load_config(config)
    with lease(settings.root, wait_seconds=settings.refresh.wait_seconds):
        shown_step("models", lambda: export_model(settings, model))


@models.command("rollback")
def models_rollback(config: ConfigPaths) -> None:
    """Take back the last switch of champions."""
    from pipelines.models import roll_back

    settings = load_config(config)
    with session(settings, "models") as spark:
        shown_step("models", lambda: roll_back(spark, settings))
