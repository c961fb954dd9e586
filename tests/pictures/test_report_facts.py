"""Numbers and commands of a run in words."""

import shlex

import pytest
import scipy.stats
from pictures.report_runs import make_run

from vit_jax.pictures.report_facts import interval, next_commands, read_facts, resume_command


@pytest.mark.parametrize(("right", "of"), [(28, 60), (0, 10), (10, 10), (9_812, 10_000)])
def test_the_interval_is_wilsons(right, of):
    exact = scipy.stats.binomtest(right, of).proportion_ci(method="wilson")
    assert interval(right / of, of) == pytest.approx((exact.low, exact.high), abs=2e-5)


def test_the_command_to_go_on(tmp_path):
    run = make_run(tmp_path / "run-1")

    def command():
        return shlex.split(resume_command(read_facts(run)).line)

    start = ["python", "train.py", "--config", f"{run}/config.json", f"--workdir={run}"]
    assert command() == [*start, "--resume=must", "--config.epochs=6"]
    (run / "summary.json").unlink()
    assert command() == [*start, "--resume=must"]
    (run / "config.json").unlink()
    assert resume_command(read_facts(run)) is None
    assert next_commands("-run")[0].line == "vit-jax evaluate ./-run"
