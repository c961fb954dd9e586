"""What is in a program before XLA compiles it."""

from jax.extend import core


def count(jaxpr, name="dot_general"):
    """How often a primitive stands in a jaxpr and those in it: a scan's body once, not per turn."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    inside = sum(count(inner, name) for inner in core.subjaxprs(jaxpr))
    return inside + sum(equation.primitive.name == name for equation in jaxpr.eqns)
