"""Dataclasses as plain values and back: names, types, meanings, and what is near a mistake."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

INTEGERS = 2**63
"""Whole numbers lie below; larger ones fit no machine word."""


def fields_of(kind: type) -> list[str]:
    """The names of a dataclass's fields."""
    names = [field.name for field in dataclasses.fields(kind)]
    # A Linen module has two fields more, for its place in a tree of modules.
    linen = ("parent", "name") if "parent" in names else ()
    return [name for name in names if name not in linen]


def plain(value: Any) -> Any:
    """A dataclass, and those in it, as dictionaries; anything else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in fields_of(type(value))}
    return value


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what `plain` returns.

    >>> dict(leaves({"model": {"depth": 3}, "seed": 0}))
    {'model.depth': 3, 'seed': 0}
    """
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def build(kind: Any, content: Any, where: str, problems: list[str]) -> Any:
    """Plain values as an object of dataclass `kind`.

    Args:
      where: its dotted name.
      problems: takes a line on every unknown field and on every value of another type; the object
        has their defaults.
    """
    if not isinstance(content, Mapping):
        fields = f"an object with the fields of {kind.__name__}"
        problems.append(f"{where}={shown(content)}: expected {fields}")
        return kind()
    hints, fields = get_type_hints(kind), {}
    for name, value in content.items():
        place = f"{where}.{name}"
        if name not in fields_of(kind):
            problems.append(f"{place}={shown(value)}: {_unknown(name, kind)}")
        elif dataclasses.is_dataclass(hints[name]):
            fields[name] = build(hints[name], value, place, problems)
        elif not any(_matches(option, value) for option in _options(hints[name])):
            problems.append(f"{place}={shown(value)}: {expected(kind, name)}")
        elif (problem := number_problem(value)) is not None:
            problems.append(f"{place}={shown(value)}: {problem}")
        else:
            fields[name] = tuple(value) if isinstance(value, list) else value
    return kind(**fields)


def unknown_fields(tree: ast.AST, kinds: Mapping[str, type]) -> list[str]:
    """Arguments of the calls `NAME(…)` of a source that name no field; a line on each."""
    found = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        kind = kinds.get(ast.unparse(call.func).rpartition(".")[2])
        for argument in call.keywords:
            if kind and argument.arg is not None and argument.arg not in fields_of(kind):
                written = f"{kind.__name__}({ast.unparse(argument)})"
                found.append(f"line {argument.lineno}: {written}: {_unknown(argument.arg, kind)}")
    return found


def expected(kind: type, dotted: str) -> str:
    """What a field of `kind`, by its dotted name, holds: type and meaning.

    >>> from vit_jax.optim import OptimConfig
    >>> expected(OptimConfig, "momentum")
    'expected float (Momentum of sgd and muon.)'
    """
    *parents, name = dotted.split(".")
    for parent in parents:
        kind = get_type_hints(kind)[parent]
    meaning = _meaning(kind, name)
    return f"expected {_describe(get_type_hints(kind)[name])}" + (
        f" ({meaning})" if meaning else ""
    )


def near_name(name: str, names: Sequence[str]) -> str | None:
    """The dotted name that is meant, by the whole or by its last part."""
    if near := difflib.get_close_matches(name, names, n=1):
        return near[0]
    last = {other.rpartition(".")[2]: other for other in names}
    near = difflib.get_close_matches(name.rpartition(".")[2], list(last), n=1)
    return last[near[0]] if near else None


def number_problem(value: Any) -> str | None:
    """What is wrong with a value that is no number to count with, in words."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            return "should be a finite number"
        if isinstance(number, int) and abs(number) >= INTEGERS:
            return "should be below 2**63"
    return None


def shown(value: Any) -> str:
    """A value in a message; of a long one the beginning and the end."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # numbers of 4,300 digits, and very deep lists
        return "…"
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"


def _unknown(name: str, kind: type) -> str:
    names = fields_of(kind)
    near = near_name(name, names)
    return f"there is no such field; {f'perhaps {near}' if near else f'there are {_list(names)}'}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _matches(hint: Any, value: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        items = [arg for arg in get_args(hint) if arg is not ...]
        if not isinstance(value, list | tuple):
            return False
        if ... not in get_args(hint) and len(value) != len(items):
            return False
        return all(_matches(items[min(i, len(items) - 1)], item) for i, item in enumerate(value))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    options = _options(hint)
    words = [repr(word) for option in options for word in get_args(option) if _is_choice(option)]
    others = [option for option in options if not _is_choice(option)]
    kinds = ["None" if kind is type(None) else _name(kind) for kind in others]
    return f"one of {_list([*words, *kinds])}" if words else " | ".join(kinds)


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _meaning(kind: type, name: str) -> str:
    """The words that stand under a field in the source; "" where the source is not at hand."""
    try:
        body = ast.parse(inspect.getsource(kind)).body[0].body  # pyrefly: ignore
    except (OSError, TypeError, SyntaxError):
        return ""
    for field, words in itertools.pairwise(body):
        match field, words:
            case (
                ast.AnnAssign(target=ast.Name(id=found)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if found == name:
                return " ".join(text.split())
    return ""
