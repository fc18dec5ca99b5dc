"""spark-submit --py-files dist/caspr_spark.zip jobs/embed_customers.py --config conf/complete_journey.yaml --as-of 2017-10-02T00:00:00Z"""

from jobs.cli import run_job

if __name__ == "__main__":
    run_job("embed-customers")
