"""What several processes that share a run folder have to agree on."""

import jax
import numpy as np


def somewhere(here: bool) -> bool:
    """Whether something holds in any of the processes; all have to ask, and wait for each other."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(here)).any())
