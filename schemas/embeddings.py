"""`embeddings` (one run), `customer_embedding_history` (all runs) and `customer_embeddings` (latest per customer).

`unscored` names the customers of a run whose sequences the model could not encode.
"""

from dataclasses import replace

from schemas.contract import Column, Contract

_COLUMNS = (
    Column("customer_id", "string", "the entity, exactly as in the raw tables"),
    Column("embedding", "array<float>", "the customer's vector"),
    Column("as_of", "timestamp", "only events strictly before this time (UTC) were seen"),
    Column("last_event_time", "timestamp", "newest event seen (UTC)"),
    Column("num_events", "int", "events seen, at most `sequences.max_events`"),
    Column("model_version", "string", "content hash of the checkpoint"),
    Column("run_id", "string", "as_of, model_version and a hash of the inputs: equal inputs give an equal run_id"),
)

EMBEDDINGS = Contract("embeddings", _COLUMNS, key=("customer_id",))
CUSTOMER_EMBEDDING_HISTORY = Contract(
    "customer_embedding_history", _COLUMNS, key=("customer_id", "run_id"), time_key="as_of"
)
CUSTOMER_EMBEDDINGS = Contract("customer_embeddings", _COLUMNS, key=("customer_id",))
"""Vectors of one model, the champion: what readers get."""
PUBLISHED = (CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS)

UNSCORED = Contract(
    "unscored",
    (
        Column("customer_id", "string", "whose sequence could not be encoded"),
        Column("as_of", "timestamp", "as in `embeddings`"),
        Column("model_version", "string", "as in `embeddings`"),
        Column("run_id", "string", "as in `embeddings`"),
        Column("problem", "string", "what the encoder said"),
    ),
    key=("customer_id", "run_id"),
)


def latest_of(model_version: str) -> Contract:
    """The latest vectors of a model that is not the champion, kept so that it can become it (again)."""
    return replace(CUSTOMER_EMBEDDINGS, name=f"{CUSTOMER_EMBEDDINGS.name}_of_{model_version}")
