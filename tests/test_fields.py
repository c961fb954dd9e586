"""Plain values, types and meanings of dataclasses, and near names."""

import ast
import dataclasses
from typing import Literal

import pytest

from vit_jax import ViT
from vit_jax.fields import (
    build,
    expected,
    fields_of,
    leaves,
    near_name,
    number_problem,
    plain,
    shown,
    unknown_fields,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int | tuple[int, int] = 1
    """Pixels,
    on a side."""
    kind: Literal["a", "b"] | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    """What it is called."""
    share: float = 0.5


def test_plain_and_back():
    outer = Outer(Inner((2, 3), "b"), ("x",), 1)
    content = {"inner": {"size": (2, 3), "kind": "b"}, "names": ("x",), "share": 1}
    assert plain(outer) == content
    assert dict(leaves(content)) == {
        "inner.size": (2, 3),
        "inner.kind": "b",
        "names": ("x",),
        "share": 1,
    }
    problems = []
    assert build(Outer, content | {"names": ["x"]}, "it", problems) == outer
    assert problems == []


def test_what_does_not_fit_is_said_and_keeps_its_default():
    problems = []
    content = {"inner": {"size": [2], "kind": "c"}, "name": ["x"], "share": True}
    assert build(Outer, content, "it", problems) == Outer()
    assert problems == [
        "it.inner.size=[2]: expected int | tuple[int, int] (Pixels, on a side.)",
        "it.inner.kind='c': expected one of 'a', 'b', None",
        "it.name=['x']: there is no such field; perhaps names",
        "it.share=True: expected float",
    ]


def test_the_meaning_is_that_of_the_field_and_of_no_other():
    assert expected(Outer, "names") == "expected tuple[str, ...] (What it is called.)"
    assert expected(Outer, "share") == "expected float"
    assert expected(Outer, "inner.size").endswith("(Pixels, on a side.)")


def test_a_linen_module_has_the_fields_of_its_class():
    assert "parent" not in fields_of(ViT)
    assert fields_of(ViT)[0] == "patch_size"
    assert fields_of(Outer) == ["inner", "names", "share"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("model.depht", "model.depth"), ("rate", "optim.rate"), ("modl", None), ("heads", None)],
)
def test_near_names(name, near):
    assert near_name(name, ["model.depth", "optim.rate", "seed"]) == near


def test_numbers_to_count_with():
    assert [number_problem(x) for x in (0, 1.5, "inf", None, 2**63 - 1, (1, 2.0))] == [None] * 6
    assert number_problem(float("inf")) == "should be a finite number"
    assert number_problem((1.0, float("nan"))) == "should be a finite number"
    assert number_problem(-(2**63)) == "should be below 2**63"


def test_long_values_are_cut_and_monstrous_ones_not_shown():
    assert shown("a" * 78) == repr("a" * 78)
    assert shown("a" * 500) == "'" + "a" * 59 + "…" + "a" * 14 + "'"
    assert shown(10**5000) == "…"


def test_unknown_arguments_of_calls_are_all_found():
    tree = ast.parse("x = Outer(a=1, inner=m.Inner(sise=2, size=3))\ny = other(a=1, **rest)")
    assert unknown_fields(tree, {"Outer": Outer, "Inner": Inner}) == [
        "line 1: Outer(a=1): there is no such field; there are inner, names, share",
        "line 1: Inner(sise=2): there is no such field; perhaps size",
    ]
