"""Fuzzing of what reads files: `python tests/faults/fuzz.py --seconds 600 [--target NAME]`.

Hypothesis makes the files of `fuzz_inputs.py` up, for the functions of `fuzz_targets.py`. With
`--engine atheris --target NAME`, where atheris is installed (`pip install atheris`), libFuzzer
makes them up instead, from the sound files, led by the lines that they reach.
"""

import argparse
import collections
import contextlib
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path


def with_hypothesis(
    target: Callable[[bytes], None], seconds: float, known: collections.Counter[str] | None = None
) -> int:
    """Run a target on made-up files for a time, and return how many there were.

    Args:
      known: findings, by `place_of`, to go on after; each new one is shrunk, printed and added.

    Raises:
      Exception: a finding, where `known` is None; Hypothesis has printed its smallest example.
    """
    import hypothesis
    from faults.fuzz_inputs import FILES
    from hypothesis import configuration

    _import_first()
    files, failing, examples = FILES[target.__name__](), False, 0
    end = math.inf  # until the first file: Hypothesis takes its time before it
    # What Hypothesis keeps for the next time would lie in the working directory.
    with tempfile.TemporaryDirectory(prefix="hypothesis_") as folder:
        configuration.set_hypothesis_home_dir(folder)

        @hypothesis.settings(
            max_examples=100,
            database=None,
            derandomize=False,
            deadline=None,  # `only` has its own
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),  # large files, made slowly
            report_multiple_bugs=False,
        )
        @hypothesis.given(content=files)
        def check(content: bytes) -> None:
            nonlocal end, examples, failing
            if examples == 0:
                end = time.monotonic() + seconds
            if time.monotonic() > end and not failing:
                return  # the rest of the hundred
            examples += 1
            try:
                target(content)
            except Exception as error:
                if known is None or place_of(error) not in known:
                    failing = True
                    raise
                known[place_of(error)] += 1

        while time.monotonic() < end:
            try:
                with warnings.catch_warnings():
                    # That an example is long to print: as an error it would hide the finding.
                    warnings.simplefilter("ignore", hypothesis.errors.HypothesisWarning)
                    check()
            except Exception as error:
                if known is None:
                    raise
                known[place_of(error)] += 1
                failing = False
                traceback.print_exception(error)
    return examples


def with_atheris(name: str, seconds: int) -> None:
    """Run a target on libFuzzer's files; ends the process, with a traceback where it found one."""
    import atheris

    with atheris.instrument_imports(include=["vit_jax"]):
        from faults.fuzz_targets import TARGETS
        from faults.sound_files import sound

        _import_first()
    with tempfile.TemporaryDirectory(prefix="atheris_") as folder:
        for number, content in enumerate(sound(name)):
            (Path(folder) / str(number)).write_bytes(content)
        # A target has limits of time and memory of its own, and takes libFuzzer's signal for them.
        limits = (f"-max_total_time={seconds}", "-timeout=0", "-rss_limit_mb=0")
        atheris.Setup([sys.argv[0], *limits, folder], TARGETS[name])
        atheris.Fuzz()


def _import_first() -> None:
    """Import what readers import when they need it: the time that takes is not a file's."""
    from faults.sound_files import weights_folder
    from PIL import Image

    weights_folder()
    Image.init()
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401


def place_of(error: BaseException) -> str:
    """The error's type and the line of the project it came through last, or its message."""
    frames = traceback.extract_tb(error.__traceback__)
    of_cause = traceback.extract_tb(error.__cause__.__traceback__) if error.__cause__ else []
    lines = [f"{f.filename}:{f.lineno}" for f in [*frames, *of_cause] if "vit_jax/" in f.filename]
    return f"{type(error).__name__} {lines[-1] if lines else error}"


def main() -> int:
    """Run one target or all by hand; the exit code says whether something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--target")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    arguments = parser.parse_args()
    if arguments.engine == "atheris":  # before the readers are imported: it has to see that
        if arguments.target is None:
            parser.error("--engine atheris: name one --target, as libFuzzer ends the process")
        with_atheris(arguments.target, arguments.seconds)
    from faults.fuzz_targets import TARGETS

    if arguments.target not in (None, *TARGETS):
        parser.error(f"--target: one of {', '.join(TARGETS)}")
    found: collections.Counter[str] = collections.Counter()
    for name in [arguments.target] if arguments.target else TARGETS:
        start = time.monotonic()
        number = with_hypothesis(TARGETS[name], arguments.seconds, found)
        rate = number / (time.monotonic() - start)
        print(f"{name}: {number:,} files, {rate:.1f} per second; findings in all: {dict(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    # The folder that pytest finds modules in, instead of this one.
    sys.path[0] = str(Path(__file__).parents[1])
    sys.exit(main())
