"""The contracts whose columns a configuration declares."""

from caspr_spark.config import Config
from schemas.contract import Contract
from schemas.events import events_contract
from schemas.profiles import profiles_contract
from schemas.states import states_contract


def event_contract(config: Config) -> Contract:
    """The contract of `events` for the declared attributes."""
    return events_contract({name: attribute.kind for name, attribute in config.event_attributes.items()})


def profile_contract(config: Config) -> Contract:
    """The contract of `profiles` for the declared attributes."""
    return profiles_contract({name: attribute.kind for name, attribute in config.profile_attributes.items()})


def state_contract(config: Config) -> Contract:
    """The contract of `customer_states` for the declared attributes."""
    return states_contract(event_contract(config))
