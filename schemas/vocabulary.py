"""`vocabulary`: value -> id, without collisions; `scaling`: statistics that the model normalises with."""

from schemas.contract import Column, Contract

PADDING_ID = 0
UNKNOWN_ID = 1
MASKED_ID = 2
FIRST_VALUE_ID = 3

VOCABULARY = Contract(
    name="vocabulary",
    columns=(
        Column("attribute", "string", "categorical or set-valued attribute"),
        Column("value", "string", "the value, exactly as in `events` or `profiles`"),
        Column("id", "int", f"{FIRST_VALUE_ID} and up; never changes once given"),
        Column("num_occurrences", "bigint", "occurrences in the training data of the last fit that saw it"),
    ),
    key=("attribute", "value"),
)

SCALING = Contract(
    name="scaling",
    columns=(
        Column("attribute", "string", "numerical, categorical or set-valued attribute"),
        Column("count", "bigint", "training events (or customers, for a profile) in which it is present"),
        Column("mean", "double", "numerical: mean of sign(x) * log1p(|x|)", True),
        Column("standard_deviation", "double", "numerical: of sign(x) * log1p(|x|)", True),
        Column("constant_loss", "double", "expected loss of the best constant guess: nats, or 1 for a numerical"),
    ),
    key=("attribute",),
)
