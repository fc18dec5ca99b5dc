"""`customer_embedding_profile_metrics`: what the new events behind a run were made of, by attribute."""

from schemas.contract import Column, Contract

PROFILE_METRICS = Contract(
    name="customer_embedding_profile_metrics",
    columns=(
        Column("as_of", "timestamp", "the run's as_of (UTC)"),
        Column("run_id", "string", "the published run"),
        Column("model_version", "string", "content hash of the checkpoint"),
        Column("kind", "string", "full or refresh, as in `runs`"),
        Column("measure", "string", "value, known, present or number"),
        Column("name", "string", "attribute"),
        Column(
            "bin",
            "string",
            "value: one of the 100 most frequent; known: known or unknown; present: present or missing; "
            "number: floor(4 * sign(x) * log1p(|x|))",
        ),
        Column("value", "double", "occurrences since the run before; of a profile's attribute, customers"),
        Column("squares", "double", "sum over customers of (own occurrences - share * own occurrences of all bins)²"),
        Column("customers", "double", "Kish's effective number of customers behind the measure"),
    ),
    key=("run_id", "measure", "name", "bin"),
)
