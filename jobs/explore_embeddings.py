"""spark-submit --py-files dist/caspr_spark.zip jobs/explore_embeddings.py --config CONFIG --as-of TIME"""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("explore")
