"""`customer_embedding_drift_metrics`: how far a run's vectors moved, and what was made of it."""

from schemas.contract import Column, Contract

DRIFT_METRICS = Contract(
    name="customer_embedding_drift_metrics",
    columns=(
        Column("as_of", "timestamp", "the run's as_of (UTC)"),
        Column("run_id", "string", "the published run"),
        Column("model_version", "string", "content hash of the checkpoint; other models' vectors are never compared"),
        Column("kind", "string", "full or refresh, as in `runs`"),
        Column(
            "measure",
            "string",
            "customers, distance, coordinate, segment, alignment; expected, found, effect, score, limit and alert of a "
            "chart; alert_sent",
        ),
        Column(
            "name", "string", "distance: stratum; coordinate: its number; segment: attribute=value; chart: measure:name"
        ),
        Column("bin", "string", "distance: bin; chart: baseline, rolling or fixed; else which number"),
        Column("value", "double", "customers, a mean, or 1 for yes; effects are in standard deviations of customers"),
    ),
    key=("run_id", "measure", "name", "bin"),
)
