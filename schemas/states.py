"""`customer_states`: what a refresh must know of a customer's past, so that it need not read all of it."""

from schemas.contract import Column, Contract


def states_contract(events: Contract) -> Contract:
    """The `customer_states` contract for the given `events` contract.

    A customer may have several rows; the one of the greatest `state_number` holds. Rows before it stay until the table
    is written anew.
    """
    fields = ", ".join(f"`{column.name}`: {column.type}" for column in events.columns if column.name != "customer_id")
    return Contract(
        name="customer_states",
        columns=(
            Column("customer_id", "string", "as in `events`"),
            Column("state_number", "bigint", "greater is newer"),
            Column("num_events", "bigint", "events of the customer, also those that `newest` leaves out"),
            Column("event_keys", "array<bigint>", "xxhash64 of the event_id of every event of the customer"),
            Column(
                "newest",
                f"array<struct<{fields}>>",
                "the newest `sequences.max_events` events, and the newest one of each source; newest first",
            ),
        ),
        key=("customer_id", "state_number"),
    )
