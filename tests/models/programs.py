"""What is in a program before XLA compiles it, and whether two give the same."""

import jax
import numpy as np
from jax.extend import core


def assert_equal(one, other):
    """To the bit, leaf by leaf."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def count(jaxpr, name="dot_general"):
    """How often a primitive stands in a jaxpr and those in it: a scan's body once, not per turn."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    inside = sum(count(inner, name) for inner in core.subjaxprs(jaxpr))
    return inside + sum(equation.primitive.name == name for equation in jaxpr.eqns)
