"""A Spark job whose tasks pretrain; prints the model version and the training loss of each epoch."""

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.pretrain.launch import pretrain
from tests.pretrain.planted import model_section, pretrain_section

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    records: list[EpochRecord] = []
    version = pretrain(
        Path(job["folder"]),
        model=model_section(),
        pretrain=pretrain_section(launcher=job["launcher"], num_workers=2, **job["changes"]),
        seed=3,
        root=Path(job["root"]),
        progress=records.append,
    )
    print(version, *(record.training_loss for record in records))
    spark.stop()
