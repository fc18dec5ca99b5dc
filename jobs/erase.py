"""spark-submit --py-files dist/caspr_spark.zip jobs/erase.py --config CONFIG --ids-file FILE --request-id ID"""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("erase")
