"""`run_metrics`: every number a run reports, one row a number."""

from schemas.contract import Column, Contract

RUN_METRICS = Contract(
    name="run_metrics",
    columns=(
        Column("as_of", "timestamp", "the run's as_of (UTC)"),
        Column("run_id", "string", "the published run; empty for a stage before embedding", True),
        Column("stage", "string", "events, sequences, pretrain, embed, publish or monitor"),
        Column("metric", "string", "what was measured, e.g. rows_rejected"),
        Column("key", "string", "which one, e.g. a source, an attribute or a quantile; empty for the whole"),
        Column("value", "double", "the number; a share is between 0 and 1"),
    ),
    key=("as_of", "run_id", "stage", "metric", "key"),
)
