"""spark-submit --py-files dist/caspr_spark.zip jobs/finetune.py --config CONFIG --as-of TIME --labels FILE --name N"""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("finetune")
