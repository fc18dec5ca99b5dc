"""Stage sequences: events -> fixed-length arrays, one row a customer, in Parquet."""
