"""Our reading and writing of weights, against timm and torchvision themselves.

    python benchmarks/published.py            # Markdown table; exit code 1 above 1e-5
    python benchmarks/published.py --tables   # write tests/weights/tables/*.json

benchmarks/published_models.py says which models, and what has to be installed. The tables hold what
these systems save, names, shapes and config.json at full size, without values: the tests read them,
so that no test needs timm or torchvision.
"""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from published_models import (
    ADAPTED,
    REFUSED,
    TIMM,
    TORCHVISION,
    Arguments,
    import_references,
    label_of,
    on_meta_device,
    plain_timm_models,
    random_images,
    random_torchvision,
    save_timm,
    shapes_of,
    timm_config,
    timm_fields,
    torchvision_fields,
    versions,
)

BOUND = 1e-5
TABLES = Path(__file__).parents[1] / "tests" / "weights" / "tables"
# What a name of timm's stands for and no array shows.
NAMED_FIELDS = ["width", "num_heads", "activation", "norm_eps", "pool"]


class Row(NamedTuple):
    """One line of the report."""

    model: str
    compared: str
    difference: float
    """Largest difference, relative to the largest magnitude of the reference."""


def main() -> int:
    """Print the report, or write the tables; 1 where something differs by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", action="store_true", help="write tests/weights/tables/*.json")
    tables_only = parser.parse_args().tables
    import_references()
    if tables_only:
        write_tables()
        return 0
    print("| model | compared | largest relative difference |\n| --- | --- | --- |")
    rows = []
    for row in compare():
        rows.append(row)
        print(f"| {row.model} | {row.compared} | {row.difference:.1e} |", flush=True)
    worst = max(rows, key=lambda row: row.difference)
    print(f"\n{len(rows)} comparisons, the worst {worst.difference:.1e}; {', '.join(versions())}\n")
    read = []
    for architecture, arguments in REFUSED:
        reason = refusal(architecture, arguments)
        print(f"- {label_of(architecture, arguments)}: {reason or 'READ, though no plain ViT'}")
        read += [architecture] if reason is None else []
    return int(bool(read) or any(not row.difference <= BOUND for row in rows))


def compare() -> Iterator[Row]:
    """All comparisons, one after the other."""
    for architecture, arguments in TIMM:
        with tempfile.TemporaryDirectory() as folder:
            yield from compare_timm(architecture, arguments, Path(folder))
    for name in TORCHVISION:
        with tempfile.TemporaryDirectory() as folder:
            yield from compare_torchvision(name, Path(folder))


def compare_timm(architecture: str, arguments: Arguments, folder: Path) -> Iterator[Row]:
    """Read what timm saved, write it back, and adapt it as timm does."""
    import timm
    from safetensors.torch import load_file

    from vit_jax.weights import save_pretrained

    label, saved, written = label_of(architecture, arguments), folder / "timm", folder / "ours"
    theirs = save_timm(architecture, arguments, saved)
    images = random_images(theirs.patch_embed.img_size, theirs.in_chans)
    tokens, output = run(theirs.forward_features, images), run(theirs, images)
    model, variables, spec = load(saved)
    ours = apply(model, variables, images)
    yield Row(label, "tokens", difference(ours["tokens"], tokens))
    yield Row(label, "output", difference(ours["output"], output))

    save_pretrained(written, "timm", model, variables, spec, say=None)
    back = timm.create_model(f"local-dir:{written}")
    back.load_state_dict(load_file(written / "model.safetensors"), strict=True)
    yield Row(label, "written, and run by timm", difference(run(back, images), output))

    for adapted in ADAPTED.get(label, ()):
        # This is timm's own way to load what it saved into a model of another shape.
        theirs = timm.create_model(f"local-dir:{saved}", pretrained=True, **adapted)
        images = random_images(theirs.patch_embed.img_size, theirs.in_chans)
        model, variables, _ = load(
            saved,
            image_size=theirs.patch_embed.img_size,
            patch_size=theirs.patch_embed.patch_size,
            channels=theirs.in_chans,
        )
        ours = apply(model, variables, images)
        yield Row(
            label_of(label, adapted), "output", difference(ours["output"], run(theirs, images))
        )


def compare_torchvision(name: str, folder: Path) -> Iterator[Row]:
    """Read both kinds of file that torchvision's weights come in, write it back, and adapt it."""
    import torch
    from safetensors.torch import load_file, save_file
    from torchvision.models.vision_transformer import interpolate_embeddings

    from vit_jax.weights import save_pretrained

    theirs = random_torchvision(name)
    state = theirs.state_dict()
    save_file(state, folder / "model.safetensors")
    # torchvision before 0.13, which wrote the files still published, numbered an MLP's layers.
    first, second = ((f".mlp.{old}.", f".mlp.linear_{new}.") for old, new in ((0, 1), (3, 2)))
    older = {key.replace(*first).replace(*second): value for key, value in state.items()}
    torch.save(older, folder / "model.pth")
    images = random_images((theirs.image_size,) * 2, 3)
    output = run(theirs, images)
    for file in ("model.safetensors", "model.pth"):
        model, variables, spec = load(folder / file)
        ours = apply(model, variables, images)
        yield Row(name, f"output, {file}", difference(ours["output"], output))

    written = save_pretrained(
        folder / "ours.safetensors", "torchvision", model, variables, spec, say=None
    )
    theirs.load_state_dict(load_file(written), strict=True)
    yield Row(name, "written, and run by torchvision", difference(run(theirs, images), output))

    larger = theirs.image_size + 3 * theirs.patch_size
    theirs = random_torchvision(name, larger)
    theirs.load_state_dict(interpolate_embeddings(larger, theirs.patch_size, dict(state)))
    images = random_images((larger, larger), 3)
    ours = apply(*load(written, image_size=larger)[:2], images)
    yield Row(f"{name}, {larger} pixels", "output", difference(ours["output"], run(theirs, images)))


def refusal(architecture: str, arguments: Arguments) -> str | None:
    """Why the weights that timm saves of this architecture are not read; None where they are."""
    from vit_jax.weights import WeightsError

    with tempfile.TemporaryDirectory() as folder:
        save_timm(architecture, arguments, Path(folder))
        try:
            load(Path(folder))
        except WeightsError as error:
            return str(error).replace(f"{folder}/", "")
    return None


def load(path: Path, **fields: Any) -> tuple[Any, Any, Any]:
    """`load_pretrained`, in silence."""
    from vit_jax.weights import load_pretrained

    return load_pretrained(path, say=None, **fields)


def apply(model: Any, variables: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Our tokens [b, n, d], and the logits or, without a head, the pooled features."""
    import jax

    found = jax.jit(functools.partial(model.apply, method="features"))(variables, images)
    output = found["pooled"] if model.num_classes is None else found["logits"]
    return {"tokens": np.asarray(found["tokens"]), "output": np.asarray(output)}


def run(function: Any, images: np.ndarray) -> np.ndarray:
    """A PyTorch model, or a method of one, on images [b, h, w, c]."""
    import torch

    getattr(function, "__self__", function).eval()
    with torch.inference_mode():
        return function(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude of theirs."""
    if ours.shape != theirs.shape:
        raise ValueError(f"ours has shape {ours.shape}, theirs {theirs.shape}")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def write_tables() -> None:
    """tests/weights/tables/*.json: for each model what is saved, and what our `ViT` has to be."""
    models, refused = {}, {}
    for name, arguments in TIMM + REFUSED:
        model = on_meta_device(name, arguments)
        saved = {"config": timm_config(model), "tensors": shapes_of(model, r"blocks\.(\d+)\.")}
        if (name, arguments) in REFUSED:
            refused[label_of(name, arguments)] = saved
        else:
            models[label_of(name, arguments)] = {"fields": timm_fields(model)} | saved
    names = {
        name: [fields[key] for key in NAMED_FIELDS]
        for name, fields in ((name, timm_fields(model)) for name, model in plain_timm_models())
    }
    torchvision_models = {}
    for name in TORCHVISION:
        model = on_meta_device(name, {})
        shapes = shapes_of(model, r"encoder\.layers\.encoder_layer_(\d+)\.")
        torchvision_models[name] = {"fields": torchvision_fields(model), "tensors": shapes}

    TABLES.mkdir(parents=True, exist_ok=True)
    timm_version, torchvision_version, *_ = versions()
    for file, content in {
        "timm": {
            "made_with": timm_version,
            "models": models,
            "refused": refused,
            "names_hold": NAMED_FIELDS,
            "names": names,
        },
        "torchvision": {"made_with": torchvision_version, "models": torchvision_models},
    }.items():
        (TABLES / f"{file}.json").write_text(text_of(content) + "\n")


def text_of(value: Any, indent: int = 0) -> str:
    """JSON with a line for each entry of an object, and lists in one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    pad = " " * (indent + 1)
    lines = (f"{pad}{json.dumps(key)}: {text_of(item, indent + 1)}" for key, item in value.items())
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


if __name__ == "__main__":
    sys.exit(main())
