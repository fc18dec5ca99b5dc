"""`runs`: one row a published run, written after its vectors; where the next refresh goes on."""

from schemas.contract import Column, Contract

RUNS = Contract(
    name="runs",
    columns=(
        Column("run_id", "string", "as in `customer_embedding_history`"),
        Column("as_of", "timestamp", "the run's as_of (UTC)"),
        Column("kind", "string", "full: all customers; refresh: those that were touched since `previous_run_id`"),
        Column("model_version", "string", "content hash of the checkpoint"),
        Column("previous_run_id", "string", "the run that a refresh goes on from", True),
        Column("events_version", "bigint", "version of `events` that the sequences were made of"),
        Column("profiles_version", "bigint", "version of `profiles` that the sequences were made of"),
        Column("num_customers", "bigint", "vectors published"),
        Column("num_removed", "bigint", "customers taken out of the latest table: they have no event any more"),
    ),
    key=("run_id",),
)
