"""spark-submit --py-files dist/caspr_spark.zip jobs/simulate_bank.py --out FOLDER --customers N --start TIME ..."""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("simulate-bank")
