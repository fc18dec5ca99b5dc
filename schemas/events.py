"""`events`: one row per customer activity of any source; `rejected`: the raw rows that were not taken."""

from schemas.contract import Column, Contract, attribute_columns

EVENT_COLUMNS = (
    Column("customer_id", "string", "the entity, exactly as in the raw table, as text"),
    Column("event_time", "timestamp", "when it happened (UTC)"),
    Column("event_id", "string", "source name, a colon, customer and the activity's key: unique over all sources"),
    Column("source", "string", "name of the source in the configuration"),
    Column("session_id", "string", "event_id of the session's first event; null where a source has no sessions", True),
    Column("num_raw_rows", "bigint", "raw rows that this activity was made of"),
    Column("num_values_cut", "bigint", "values of its sets beyond the declared `max_values`, left out"),
)

REJECTED = Contract(
    name="rejected",
    columns=(
        Column("source", "string", "name of the source or profile in the configuration"),
        Column("reason", "string", "name of the first check that failed, or `duplicate`"),
        Column("file", "string", "raw file or table that the row came from"),
        Column("customer_id", "string", "the entity, where the row names one", True),
        Column("content", "string", "the raw row as JSON, or its text where it could not be parsed"),
        Column("num_rows", "bigint", "equal rows of this file"),
    ),
    key=("source", "reason", "file", "customer_id", "content"),
)


def events_contract(kinds: dict[str, str]) -> Contract:
    """The `events` contract with one nullable column per declared attribute (name -> kind)."""
    return Contract("events", EVENT_COLUMNS + attribute_columns(kinds), key=("event_id",))
