"""`tombstones`: a row for each erased customer, known only by a keyed hash; what keeps them from coming back."""

from schemas.contract import Column, Contract

TOMBSTONES = Contract(
    name="tombstones",
    columns=(
        Column("customer_hash", "string", "hex SHA-256 of the key in `erasures/key` and the customer_id"),
        Column("request_id", "string", "the request that erased the customer"),
        Column("requested_time", "timestamp", "when it was made (UTC)"),
    ),
    key=("customer_hash", "request_id"),
)
