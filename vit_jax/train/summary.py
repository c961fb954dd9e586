"""What a run says about itself before and after: lines, summary.json, pictures."""

import platform
from importlib.metadata import version
from typing import Any

import vit_jax
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.metrics import read_rows
from vit_jax.sharding import overlooked_gpu
from vit_jax.train.evaluate import Evaluation
from vit_jax.train.memory import device_limit, in_words, resident_bytes, state_bytes
from vit_jax.train.report import Report
from vit_jax.train.setup import Job


def introduce(job: Job, folder: RunFolder, report: Report, start: int) -> None:
    """Say what is going to be trained, on what, from where."""
    config, model = job.config, job.config.model
    devices = f"{len(job.devices)} {job.devices[0].device_kind}"
    report.say(f"Run folder: {folder.path}")
    report.say(
        f"ViT width {model.width}, depth {model.depth}, heads {model.num_heads}, patch "
        f"{model.patch_size}: {job.parameters:,} parameters, {model.dtype}, on {devices}"
    )
    report.say(
        f"{config.data.name}: {job.train_feed.num_examples:,} images to train on, "
        f"{len(job.class_names)} classes; {job.total_steps:,} steps of {config.batch_size} images, "
        f"{job.epochs:.3g} epochs"
    )
    report.say(describe_held(job))
    for note in job.data_notes:
        report.say(note)
    if config.pretrained and not start:
        report.say(f"Starting from the weights in {config.pretrained}")
        for change in job.changes:
            report.say(f"  {change}")
    if config.device == "auto" and (advice := overlooked_gpu(job.devices)):
        report.say(f"WARNING: {advice}")
    if job.early:
        report.say(_early_in_words(job))
    too_long = {
        "optim.warmup_epochs": "the learning rate rises to its end without reaching the peak",
        "optim.head_only_epochs": "the head alone is updated",
        "early.epochs": "the model itself is never trained as it will be used",
    }
    for name, consequence in too_long.items():
        part, field = name.split(".")
        epochs = getattr(getattr(config, part), field)
        if round(epochs * job.steps_per_epoch) > job.total_steps:
            report.say(f"NOTE: {name}={epochs:g} is longer than this training: {consequence}")
    if note := _note_on_calls(job, start):
        report.say(note)
    if start:
        report.say(f"Going on from the checkpoint at step {start}")


def _early_in_words(job: Job) -> str:
    """What is different in the first steps."""
    assert job.early
    early, changes = job.config.early, []
    if early.patch_size is not None:
        changes.append(f"patches of {early.patch_size}")
    if early.patch_dropout is not None:
        changes.append(f"{early.patch_dropout:.0%} of the patches left out")
    return f"The first {job.early.until:,} steps: {', '.join(changes)}"


def _note_on_calls(job: Job, start: int) -> str | None:
    """Say so where `steps_per_call` is not what all steps go by."""
    number, done, alone = job.config.steps_per_call, start, 0
    if number == 1:
        return None
    while done < job.total_steps:
        at_once = job.steps_at_once(done)
        alone += at_once == 1
        done += at_once
    if not alone:
        return None
    return (
        f"NOTE: steps_per_call={number}: {alone:,} of {job.total_steps - start:,} steps go out "
        "alone, since an evaluation, a checkpoint or the end falls among their neighbours"
    )


def describe_held(job: Job) -> str:
    """A line on what each device holds all the time, without compiling anything."""
    state, images = sum(state_bytes(job).values()), resident_bytes(job)
    line = f"Each device holds {in_words(state)} of state and {in_words(images)} of images"
    if job.devices[0].platform == "cpu":
        return line
    return f"{line}, of {in_words(device_limit(job.devices))}; activations come on top"


def summarise(
    job: Job,
    folder: RunFolder,
    report: Report,
    status: str,
    done: int,
    test: dict[str, Evaluation],
    bad_images: int,
) -> dict[str, Any]:
    """What summary.json holds, but for the seconds of the whole."""
    evaluations = read_rows(folder.path, keep=lambda row: row["split"] == "eval")
    last = evaluations[-1] if evaluations else {}
    result = chosen(test) if test else None
    views = job.config.test_time
    averaged = test.get(f"_{views}")
    return {
        "status": status,
        "steps": done,
        "epochs": done / job.steps_per_epoch,
        "parameters": job.parameters,
        "train_flops_per_image": job.train_flops_per_image,
        "train_images_per_second": report.images_per_second,
        "seconds_to_first_step": report.seconds_to_first_step,
        **{f"seconds_{name}": value for name, value in report.seconds.items()},
        "eval_accuracy": last.get("accuracy_ema", last.get("accuracy")),
        "test_accuracy": result and result.accuracy,
        "test_top5_accuracy": result and result.top5_accuracy,
        "test_calibration_error": result and result.calibration_error,
        "test_per_class_accuracy": result
        and dict(zip(job.class_names, result.per_class_accuracy, strict=True)),
        **({f"test_accuracy_{views}": averaged.accuracy} if averaged else {}),
        "test_loss": result and result.loss,
        "test_examples": result and result.examples,
        "weights": "ema" if job.recipe.ema_decay is not None else "trained",
        "class_names": list(job.class_names),
        "bad_images": bad_images,
        "versions": versions(),
        "device_kind": job.devices[0].device_kind,
        "device_count": len(job.devices),
    }


def versions() -> dict[str, str]:
    """Of this package, of Python, and of those that decide about numbers and files."""
    names = ("jax", "flax", "optax", "orbax-checkpoint")
    ours = {"vit_jax": vit_jax.__version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in names}


def list_bad_images(job: Job, folder: RunFolder, report: Report) -> int:
    """Write bad_images.txt, a line each: the file, a tab, and why it was left out.

    Those that an earlier start of the run has met stay listed; the number of all is returned.
    """
    file = folder.path / "bad_images.txt"
    before = file.read_text().splitlines() if file.exists() else []
    found = dict(line.split("\t", 1) for line in before) | job.bad_images
    if not found:
        return 0
    lines = [f"{name}\t{why}\n" for name, why in sorted(found.items())]
    folder.write_text(file.name, "".join(lines))
    files = "1 file" if len(lines) == 1 else f"{len(lines)} files"
    report.say(f"Left out: {files} without a picture, see {file}")
    return len(lines)


def chosen(results: dict[str, Evaluation]) -> Evaluation:
    """The moving average's results where there is one: those are the weights to use."""
    return results.get("_ema", results[""])
