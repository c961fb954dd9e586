"""Kill a training at random moments until it is done, and compare it with one that was left alone.

    python tests/faults/kill_anywhere.py --kills 25

Every other kill waits until a checkpoint is being written. The last line says whether the sha256 of
the final weights, and every loss, are equal.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import processes


def is_saving(workdir):
    """Whether a save has begun that is not finished."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def training(steps):
    """A training whose steps are long beside its saves, so that moments differ; saves every ten."""
    model = processes.small_config().model.clone(patch_size=2, width=64, depth=2, mlp_dim=128)
    return processes.small_config(
        model=model,
        batch_size=128,
        checkpoint_every_epochs=2.0,
        eval_every_epochs=4.0,
        steps=steps,
    )


def kill_once(config_path, workdir, draw, in_save):
    """Start the run, kill it at a moment drawn at random, and return what the moment was.

    It is let on beyond the checkpoint it began with, so that the whole comes to an end.
    """
    process = processes.start(config_path, workdir)
    first = max((int(path.name) for path in saved(workdir)), default=0)
    processes.wait_until(processes.after_step(workdir, first + draw.randrange(1, 25)), process)
    with contextlib.suppress(AssertionError):  # the run has ended before that
        processes.wait_until(lambda: is_saving(workdir) == in_save, process)
    time.sleep(draw.uniform(0, 0.03))  # to die at no moment that any condition names
    inside = is_saving(workdir)
    process.kill()
    code, _ = processes.end(process)
    return {"step": processes.newest_row(workdir), "in_save": inside, "killed": code == -9}


def saved(workdir):
    folder = workdir / "checkpoints"
    return [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []


def kill_anywhere(folder, kills, seed=0, steps_a_kill=15):
    """Kill a run so many times, let it end, and compare it with one that nobody has interrupted.

    Args:
      folder: an empty one, for both runs.

    Returns:
      a report: the kills, and both fingerprints. AssertionError: something differs.
    """
    draw = random.Random(seed)  # noqa: S311
    config_path = processes.write_config(folder, training(kills * steps_a_kill))
    whole, killed = folder / "whole", folder / "killed"
    processes.finish(config_path, whole)
    report = [kill_once(config_path, killed, draw, bool(n % 2)) for n in range(kills)]
    processes.finish(config_path, killed)
    assert not is_saving(killed), "something of a killed save is left"
    processes.assert_same_curves(killed, whole)
    fingerprints = [processes.fingerprint(path) for path in (whole, killed)]
    assert fingerprints[0] == fingerprints[1]
    return {"kills": report, "fingerprints": fingerprints}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(processes.share_compiled(Path(folder) / "compiled"))
        report = kill_anywhere(Path(folder), arguments.kills, arguments.seed)
    for kill in report["kills"]:
        print(json.dumps(kill))
    done = [kill for kill in report["kills"] if kill["killed"]]
    inside = sum(kill["in_save"] for kill in done)
    steps = sorted({kill["step"] for kill in done})
    print(f"{len(done)} kills after {len(steps)} different steps, {inside} of them inside a save")
    print(f"sha256 uninterrupted {report['fingerprints'][0]}")
    print(f"sha256 killed        {report['fingerprints'][1]}: equal, and so is every loss")


if __name__ == "__main__":
    main()
