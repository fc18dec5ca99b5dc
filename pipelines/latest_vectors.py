"""The latest vectors of each model, and which of them readers get as `customer_embeddings`."""

from collections.abc import Callable

from pyspark.sql import DataFrame, SparkSession

from caspr_spark.aliases import Aliases, change_aliases, read_aliases
from caspr_spark.crash_points import crash_point
from caspr_spark.errors import UnsafeError
from caspr_spark.publish.switch import link_table
from caspr_spark.tables import empty_table, last_commit_notes, read_table, table_exists, table_path
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDINGS, latest_of


def latest_table(root: str, model_version: str) -> Contract:
    """Where the latest vectors of a model are kept: the champion's in CUSTOMER_EMBEDDINGS."""
    return CUSTOMER_EMBEDDINGS if read_aliases(root).champion == model_version else latest_of(model_version)


def latest_vectors(spark: SparkSession, root: str, model_version: str) -> DataFrame:
    """One row a customer; none for a model that was never published."""
    table = latest_table(root, model_version)
    return read_table(spark, table, root) if table_exists(spark, table, root) else empty_table(spark, table)


def served_model(spark: SparkSession, root: str) -> str | None:
    """Whose vectors CUSTOMER_EMBEDDINGS holds; None before the first run is published."""
    if not table_exists(spark, CUSTOMER_EMBEDDINGS, root):
        return None
    row = read_table(spark, CUSTOMER_EMBEDDINGS, root).select("model_version").first()
    if row is not None:
        return str(row["model_version"])
    numbers = last_commit_notes(spark, CUSTOMER_EMBEDDINGS, root).get("numbers", {})  # nobody has an event any more
    model = numbers.get("model_version") or numbers.get("run", {}).get("model_version")
    return None if model is None else str(model)


def serve_champion(spark: SparkSession, root: str) -> None:
    """Let CUSTOMER_EMBEDDINGS follow the alias; nothing where it does.

    Whoever publishes calls this first: a switch that was killed in the middle is finished then.

    Raises:
        UnsafeError: the champion was never published.
    """
    champion, served = read_aliases(root).champion, served_model(spark, root)
    if champion is None or served in (None, champion):
        return
    if not table_exists(spark, latest_of(champion), root):
        raise UnsafeError(
            f"{table_path(latest_of(champion), root)}: no vectors of the champion {champion}, while "
            f"{CUSTOMER_EMBEDDINGS.name} holds those of {served}; caspr-spark models set champion {served}"
        )
    numbers = {"model_version": champion}
    link_table(
        spark, latest_of(champion), CUSTOMER_EMBEDDINGS, root, made_from=f"switch to {champion}", numbers=numbers
    )


def switch_champion(spark: SparkSession, root: str, change: Callable[[Aliases], Aliases]) -> Aliases:
    """Another champion, by one change of the aliases; the vectors of both models stay as they are.

    Before it, the present champion's latest vectors are linked to where a model that is no champion has them, so that
    the switch can be taken back.
    """
    serve_champion(spark, root)
    if (served := served_model(spark, root)) is not None:
        numbers = {"model_version": served}
        link_table(
            spark, CUSTOMER_EMBEDDINGS, latest_of(served), root, made_from=f"switch from {served}", numbers=numbers
        )
    crash_point("before_switch")
    aliases = change_aliases(root, change)
    crash_point("after_switch")
    serve_champion(spark, root)
    return aliases
