"""spark-submit --py-files dist/caspr_spark.zip jobs/maintain.py --config CONFIG"""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("maintain")
