"""The floors of the house: imports run downhill, and heavy packages have one room each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"ops", "launch"},
    {"models", "data", "runs", "optim", "sharding", "processes", "compilation", "fields"},
    {"config", "pictures"},
    {"weights", "config_checks"},
    {"train", "__init__"},
    {"inference"},
    {"commands"},
    {"cli"},
    {"/train", "/configs", "/examples", "/benchmarks"},  # outside the package: nobody imports them
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
OWNERS = {
    "flax": "models",
    **dict.fromkeys(
        ("grain", "tensorflow_datasets", "PIL", "sklearn", "array_record", "datasets"), "data"
    ),
    **dict.fromkeys(("orbax", "tensorboardX"), "runs"),
    "matplotlib": "pictures",
    **dict.fromkeys(("safetensors", "huggingface_hub", "torch"), "weights"),
}
FILES = sorted(
    path
    for top in ("vit_jax", "train.py", "configs", "examples", "benchmarks")
    for path in ([ROOT / top] if top.endswith(".py") else (ROOT / top).rglob("*.py"))
)


def room_of(path):
    """The room of a file, by its path from the root."""
    first, *rest = path.with_suffix("").parts
    if first != "vit_jax":
        return f"/{first}"
    return {"__main__": "cli"}.get(rest[0], rest[0])  # python -m vit_jax is the command line


def imported_modules(source):
    """Full names of all modules a file imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                # `from vit_jax import sharding` imports a room, `from vit_jax import ViT` a name.
                room = node.module == "vit_jax" and alias.name in FLOOR
                yield f"vit_jax.{alias.name}" if room else node.module


def violations(path, source):
    """What the imports of a file at `path` (from the root) do that the floors forbid."""
    here = room_of(path)
    for module in imported_modules(source):
        top, *rest = module.split(".")
        if top == "vit_jax":
            room = rest[0] if rest else "models"
            if room != here and FLOOR[room] >= FLOOR[here]:
                yield f"{path} (floor {FLOOR[here]}) imports {module} (floor {FLOOR[room]})"
        elif f"/{top}" in FLOOR:
            yield f"{path} imports {module}, which nobody may import"
        elif not here.startswith("/") and OWNERS.get(top, here) != here:
            yield f"{path} imports {module}, which only {OWNERS[top]} may import"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_downhill_and_heavy_packages_stay_in_their_room(file):
    path = file.relative_to(ROOT)
    assert room_of(path) in FLOOR, f"{path} stands on no floor: give it one here and in the design"
    assert list(violations(path, file.read_text())) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vit_jax/ops/a.py", "from vit_jax.models.vit import ViT"),
        ("vit_jax/ops/a.py", "import vit_jax"),
        ("vit_jax/optim.py", "import vit_jax.sharding"),
        ("vit_jax/data/a.py", "def f():\n    from vit_jax import optim"),
        ("vit_jax/config.py", "from vit_jax.pictures.style import BLUE"),
        ("vit_jax/train/loop.py", "from vit_jax.cli import main"),
        ("vit_jax/__init__.py", "from vit_jax.train.loop import train"),
        ("vit_jax/cli.py", "import configs.digits"),
        ("configs/a.py", "from examples.b import c"),
        ("vit_jax/train/step.py", "import flax.linen"),
        ("vit_jax/optim.py", "from flax import linen"),
        ("vit_jax/train/loop.py", "def f():\n    import orbax.checkpoint as ocp"),
        ("vit_jax/pictures/a.py", "from PIL import Image"),
    ],
)
def test_the_walk_finds_what_is_forbidden(path, source):
    assert len(list(violations(Path(path), source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vit_jax/train/a.py", "import vit_jax\nfrom vit_jax.train.loop import train"),
        ("vit_jax/models/a.py", "import flax\nfrom vit_jax.ops import losses"),
        ("vit_jax/cli.py", "from vit_jax import config, ViT"),
        ("examples/a.py", "import flax, optax\nfrom vit_jax.cli import main"),
    ],
)
def test_the_walk_lets_pass_what_is_allowed(path, source):
    assert list(violations(Path(path), source)) == []


def test_the_walk_sees_the_whole_package():
    rooms = {room_of(file.relative_to(ROOT)) for file in FILES}
    assert rooms >= {"ops", "models", "data", "runs", "config", "train", "cli", "/train"}


def test_no_file_has_a_name_that_says_nothing():
    vague = {"utils", "util", "common", "helpers", "base", "misc", "registry"}
    assert [path for path in (ROOT / "vit_jax").rglob("*") if path.stem in vague] == []
