"""The sequences as a model reads them whose vocabulary has grown since: what came later is unknown to it."""

from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.manifest import Layout, SequenceManifest
from schemas.vocabulary import UNKNOWN_ID


def known_sequences(spark: SparkSession, folder: Path, manifest: SequenceManifest, model: Layout) -> DataFrame:
    """The sequences of the files that the manifest in `folder` names (one at least), as a model of this layout reads
    them."""
    files = [str((folder / file.path).resolve()) for file in manifest.files]
    return known_to(spark.read.parquet(*files), manifest.layout, model)


def known_to(sequences: DataFrame, present: Layout, model: Layout) -> DataFrame:
    """Sequence rows of the layout `present` -> the same of the layout `model`: ids beyond the model's become unknown.

    The layouts differ in their numbers of ids alone (`caspr_spark.registry.check_fits`).
    """
    if present == model:
        return sequences
    num_ids = {
        "categorical": [one.num_ids for one in model.categorical],
        "sets": [one.num_ids for one in model.sets for _ in range(one.max_values)],
        "profile_categorical": [one.num_ids for one in model.profile_categorical],
    }
    replaced = {name: _known_ids(name, sizes) for name, sizes in num_ids.items() if sizes}
    return sequences.select(*[replaced.get(name, F.col(name)).alias(name) for name in sequences.columns])


def _known_ids(name: str, num_ids: list[int]) -> Column:
    """An array of ids, event by event; the number of ids at each place of an event."""
    limits = F.array(*[F.lit(number) for number in num_ids])
    return F.transform(
        name, lambda id_, place: F.when(id_ < F.get(limits, place % len(num_ids)), id_).otherwise(UNKNOWN_ID)
    )
