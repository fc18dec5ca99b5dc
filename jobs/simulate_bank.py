"""spark-submit --py-files dist/caspr_spark.zip jobs/simulate_bank.py --config CONFIG --out FOLDER ..."""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("simulate-bank")
