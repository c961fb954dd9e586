"""Nothing in the source runs what is read, but the config file that the user names."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("vit_jax", "train.py", "examples", "benchmarks")
# The one file that is code, the config that the user names, is run in one place.
ALLOWED = {"vit_jax/config.py": {"runpy"}}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
RUN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
# The argument without which the call may run what a file holds.
NEEDED = {
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
# The names of XML's vocabularies look like addresses, and nothing is fetched there.
PLAIN_HTTP = r"http://(?!www\.w3\.org/)"


def forbidden(source: str) -> list[tuple[int, str]]:
    """(line, what) of everything in Python source that can run what a file or a server holds."""
    tree, found = ast.parse(source), []
    full = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else modules
            tops = {module.partition(".")[0] for module in modules}
            found += [(node.lineno, top) for top in sorted(tops & (PICKLES | {"runpy"}))]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in _in_call(node, full)]
        elif isinstance(node, ast.Constant) and re.search(PLAIN_HTTP, str(node.value)):
            found.append((node.lineno, "http://"))
    return found


def _imported(tree: ast.AST) -> dict[str, str]:
    """What names stand for: {"np": "numpy"}, {"load": "numpy.load"}."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return full


def _in_call(node: ast.Call, full: dict[str, str]) -> list[str]:
    first, dot, rest = ast.unparse(node.func).partition(".")
    name = (full.get(first, first) + dot + rest).removeprefix("builtins.")
    given = {k.arg: getattr(k.value, "value", "?") for k in node.keywords}
    found = [name] if name in RUN else []
    if re.fullmatch(r"yaml\.(?!safe_)(\w+_)?load(_all)?", name):
        found.append(name)
    if name in NEEDED and given.get(NEEDED[name][0]) is not NEEDED[name][1]:
        found.append(f"{name} without {'='.join(map(str, NEEDED[name]))}")
    if given.get("shell", False) is not False:
        found.append("shell=True")
    if name.endswith((".extractall", ".extract")) and given.get("filter") != "data":
        found.append('extractall without filter="data"')
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("eval(text)", "eval"),
        ("exec('x = 1')", "exec"),
        ("import builtins\nbuiltins.eval(text)", "eval"),
        ("code = compile(text, 'x', 'exec')", "compile"),
        ("__import__(name)", "__import__"),
        ("import os\nos.system(text)", "os.system"),
        ("from os import system as go\ngo(text)", "os.system"),
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import loads", "pickle"),
        ("import cloudpickle as c", "cloudpickle"),
        ("import dill", "dill"),
        ("import marshal, os", "marshal"),
        ("import shelve", "shelve"),
        ("import yaml\nyaml.load(file)", "yaml.load"),
        ("from yaml import unsafe_load_all as load\nload(file)", "yaml.unsafe_load_all"),
        ("import numpy as np\nnp.load(file)", "numpy.load without allow_pickle=False"),
        ("import numpy\nnumpy.load(file, allow_pickle=True)", "numpy.load without "),
        ("from numpy import load\nload(file, allow_pickle=x)", "numpy.load without "),
        ("import numpy as np\nnp.lib.format.read_array(f)", "numpy.lib.format.read_array without "),
        ("import torch\ntorch.load(file)", "torch.load without weights_only=True"),
        ("import torch as t\nt.load(file, weights_only=False)", "torch.load without "),
        ("import runpy", "runpy"),
        ("from runpy import run_path", "runpy"),
        ("import subprocess\nsubprocess.run(text, shell=True)", "shell=True"),
        ("import subprocess\nsubprocess.run(text, shell=asked)", "shell=True"),
        ("import tarfile\ntarfile.open(f).extractall(to)", "extractall without "),
        ("archive.extractall(to, filter='tar')", "extractall without "),
        ("urlopen('http://example.org/weights')", "http://"),
        ("requests.get(f'http://{host}/x')", "http://"),
    ],
)
def test_what_the_search_finds(source, what):
    (found,) = forbidden(source)
    assert found[1].startswith(what)


def test_what_the_search_lets_pass():
    assert (
        forbidden(
            "import re\nimport numpy as np, torch, yaml, subprocess\n"
            "re.compile('x'); jitted.compile(); model.eval(); yaml.safe_load(f)\n"
            "np.load(f, allow_pickle=False); torch.load(f, weights_only=True); json.load(f)\n"
            "subprocess.run(['ls'], shell=False); tar.extractall(to, filter='data')\n"
            "ns = 'http://www.w3.org/2000/svg'; url = 'https://example.org'\n"
        )
        == []
    )


def test_nothing_in_the_project_runs_what_it_reads():
    files = [path for place in PLACES for path in _python_files(ROOT / place)]
    assert len(files) > 100
    found = []
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        found += [
            f"{name}:{line}: {what}"
            for line, what in forbidden(path.read_text())
            if what not in ALLOWED.get(name, ())
        ]
    assert found == []


def _python_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def test_ruff_looks_too_and_nothing_switches_it_off():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [rule for rule in lint["ignore"] if rule.startswith("S")]
    ignored = lint["per-file-ignores"]
    assert set(ignored) == {"tests/**", "vit_jax/**"}
    assert ignored["vit_jax/**"] == ["S101"]
    marked = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "train.py", *_python_files(ROOT / "vit_jax"))
        if re.search(r"noqa(?!: (?!S))|noqa:.*\bS\d", path.read_text())
    ]
    assert set(marked) <= set(ALLOWED)
