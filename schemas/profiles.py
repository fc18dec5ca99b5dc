"""`profiles`: what is known of a customer that is not an activity (accounts, demographics)."""

from schemas.contract import Column, Contract, attribute_columns

PROFILE_COLUMNS = (
    Column("customer_id", "string", "the entity, as in `events`"),
    Column("profile", "string", "name of the profile in the configuration"),
    Column("valid_from_time", "timestamp", "known from here on (UTC); 1970-01-01 where the profile declares no time"),
)


def profiles_contract(kinds: dict[str, str]) -> Contract:
    """The `profiles` contract with one nullable column per declared profile attribute (name -> kind)."""
    return Contract(
        "profiles", PROFILE_COLUMNS + attribute_columns(kinds), key=("customer_id", "profile", "valid_from_time")
    )
