"""The losses of the first steps of the digits config, as committed: numbers change only on purpose.

`python tests/train/test_golden.py` writes them anew.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from vit_jax.config import load_config
from vit_jax.train.setup import set_up

GOLDEN = Path(__file__).with_name("golden_digits.json")
CONFIG = Path(__file__).parents[2] / "configs" / "digits.py"
STEPS = 20


def first_losses():
    # The length stays the config's, so that the learning rates are those of the real run.
    job = set_up(dataclasses.replace(load_config(CONFIG), device="cpu"))
    state, losses = job.initial_state(), []
    for step in range(STEPS):
        state, metrics = job.train_step(state, job.train_feed.resident, job.train_feed.plan(step))
        losses.append(float(metrics["loss"]))
    return losses


def test_first_steps_give_the_committed_losses():
    golden = json.loads(GOLDEN.read_text())
    # Other versions of XLA and other CPUs sum in other orders.
    np.testing.assert_allclose(first_losses(), golden["losses"], rtol=2e-5)


if __name__ == "__main__":
    content = {"jax": jax.__version__, "device": "cpu", "losses": first_losses()}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
