"""The published vectors for the teams that use them: no Spark, no torch, only deltalake and pyarrow.

    read_latest       one row a customer: the newest vector
    read_as_of        for customers and times of your own, the vector that was known then; nothing from later
    read_run          the vectors of one run
    newest_versions   what to pass as `version` to read the same again

Every call reads one version of one table below `root`, so a publish that goes on at the same time is seen whole or not
at all. Frames come back as a pyarrow.Table, or as pandas or Polars where these are given or asked for (`as_`). Vectors
are the champion's, the model in use, or of the one that is chosen (`model_version`). Those of two models have nothing
to do with one another: where a result would need both, the call is refused, unless the mixture is wanted
(`mix_models=True`).
"""

from caspr_spark.reader.published import newest_versions, read_as_of, read_latest, read_run

__all__ = ["newest_versions", "read_as_of", "read_latest", "read_run"]
