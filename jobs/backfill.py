"""spark-submit --py-files dist/caspr_spark.zip jobs/backfill.py --config CONFIG --from TIME --to TIME"""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("backfill")
