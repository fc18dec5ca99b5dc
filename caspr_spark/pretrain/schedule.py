"""The learning rate, step by step."""

import math

from caspr_spark.config import PretrainSection

WARM_SHARE = 0.3
"""Of the steps of schedule one_cycle, over which the learning rate rises."""
FIRST_RATE, LAST_RATE = 0.04, 4e-6
"""Of the highest learning rate."""


def learning_rate(settings: PretrainSection, num_steps: int, *, num_steps_an_epoch: int) -> float:
    """After `num_steps`: constant, or rising and falling along half a cosine each (one cycle)."""
    highest = settings.learning_rate
    if settings.schedule == "constant":
        return highest
    done = num_steps / (num_steps_an_epoch * settings.max_epochs)
    rising = min(done / WARM_SHARE, 1.0)
    falling = max(done - WARM_SHARE, 0.0) / (1.0 - WARM_SHARE)
    start, share = (FIRST_RATE, rising) if done < WARM_SHARE else (LAST_RATE, 1.0 - falling)
    return highest * (start + (1.0 - start) * (1.0 - math.cos(math.pi * share)) / 2)
