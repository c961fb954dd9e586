"""Signals, sent to real processes: what has been learnt is saved, and the exit code says why."""

import os
import signal
import time

import pytest
from faults import processes
from faults.small_training import make_colours, streaming

from vit_jax.train.stops import AGAIN_SECONDS

# Each of them starts several processes.
pytestmark = pytest.mark.slow


def stopped_with(config_path, folder, step, number, send=None):
    """Send a signal when the run has gone beyond a step; returns its exit code and output."""
    process = processes.start(config_path, folder, start_new_session=True)
    processes.wait_until(processes.after_step(folder, step), process)
    (send or os.kill)(process.pid, number)
    return processes.end(process)


@pytest.mark.fault(
    "SIGKILL, then SIGTERM, then Ctrl-C, in one run with everything random switched on",
    "exit codes 143 and 130, no step is lost, and the whole equals an uninterrupted run to the bit",
)
def test_r2_r4_r18_three_stops_change_nothing(config_path, whole, tmp_path):
    folder = tmp_path / "run"
    code, _ = stopped_with(config_path, folder, 10, signal.SIGKILL)
    assert code == -signal.SIGKILL
    for step, number, expected in ((20, signal.SIGTERM, 143), (35, signal.SIGINT, 130)):
        code, output = stopped_with(config_path, folder, step, number)
        assert code == expected, output
        assert "Going on from the checkpoint at step" in output
        assert "saved. Go on with:" in output
        assert f"{signal.Signals(number).name}: the run ends after this step" in output
    stopped = processes.newest_row(folder)
    assert 35 < stopped < 60
    assert f"Going on from the checkpoint at step {stopped}" in processes.finish(
        config_path, folder
    )
    assert list(processes.losses(whole)) == list(range(1, 61))
    processes.assert_same_curves(folder, whole)
    assert processes.fingerprint(folder) == processes.fingerprint(whole)


@pytest.mark.fault(
    "Ctrl-C while the first step is compiled, and once more after a second",
    "the process leaves at once with exit code 130 and without a checkpoint",
)
def test_r4_a_second_ctrl_c_leaves_at_once(tmp_path):
    model = processes.small_config().model.clone(depth=12)  # to compile for some seconds
    path = processes.write_config(tmp_path, processes.small_config(model=model))
    folder = tmp_path / "run"
    process = processes.start(path, folder)
    for line in process.stdout:  # the last one before the compiler begins
        if line.startswith("data:"):
            break
    process.send_signal(signal.SIGINT)
    first = time.monotonic()
    while time.monotonic() - first <= AGAIN_SECONDS:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=2)
    code, output = processes.end(process)
    assert code == 130
    assert "Ctrl-C again leaves at once" in output
    assert "Stopped at step" not in output
    assert processes.newest_row(folder) == 0


@pytest.mark.fault(
    "Ctrl-C twice within a moment, as a wrapper that passes it on sends it",
    "that is one request: the step is finished and saved",
)
def test_r4_one_ctrl_c_that_arrives_twice_is_one(config_path, tmp_path):
    folder = tmp_path / "run"
    process = processes.start(config_path, folder)
    processes.wait_until(processes.after_step(folder, 6), process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, output = processes.end(process)
    assert code == 130, output
    assert f"Stopped at step {processes.newest_row(folder)}, saved" in output


@pytest.mark.fault(
    "Ctrl-C in `train.py 2>&1 | tee log`, which ends tee at the same moment",
    "the step is finished and saved, exit code 130, though nobody reads what is printed",
)
def test_r4_ctrl_c_also_ends_whoever_reads_the_output(config_path, tmp_path):
    folder = tmp_path / "run"
    process = processes.start(config_path, folder)
    processes.wait_until(processes.after_step(folder, 6), process)
    # At the same moment: it can print nothing between the one and the other.
    process.send_signal(signal.SIGSTOP)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=processes.DEADLINE) == 130
    assert (folder / "checkpoints" / str(processes.newest_row(folder))).is_dir()


@pytest.fixture
def pictures(tmp_path):
    """The config of a run that two worker processes read for."""
    root = make_colours(tmp_path / "pictures", each=16)
    return processes.write_config(tmp_path, streaming(root, workers=2))


@pytest.mark.fault(
    "SIGTERM to the whole process group, in which two worker processes read the data",
    "the workers live on until the run has saved; exit code 143, and no process is left",
)
def test_r3_sigterm_to_the_group(pictures, tmp_path):
    folder, workers = tmp_path / "run", {}

    def to_the_group(pid, number):
        workers.update(
            {child: line for child, line in processes.children(pid).items() if b"spawn" in line}
        )
        os.killpg(pid, number)

    code, output = stopped_with(pictures, folder, 6, signal.SIGTERM, to_the_group)
    assert code == 143, output
    assert len([line for line in workers.values() if b"spawn_main" in line]) == 2
    stopped = processes.newest_row(folder)
    assert f"Stopped at step {stopped}, saved" in output
    assert (folder / "checkpoints" / str(stopped)).is_dir()
    assert not any(is_alive(pid) for pid in workers)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.fault(
    "SIGKILL to a worker process, as the system kills for want of memory",
    "exit code 1, the signal and data.workers are named; all steps before it are saved",
)
def test_r23_a_killed_worker_costs_no_step(pictures, tmp_path):
    folder = tmp_path / "run"

    def to_a_worker(pid, number):
        found = [child for child, line in processes.children(pid).items() if b"spawn_main" in line]
        os.kill(found[0], number)

    code, output = stopped_with(pictures, folder, 6, signal.SIGKILL, to_a_worker)
    assert code == 1, output
    assert "Error: " in output
    assert "SIGKILL" in output
    assert "lower data.workers=2" in output
    assert "Traceback" not in output
    newest = processes.newest_row(folder)
    assert f"step {newest} is saved: the same command with --workdir={folder} goes on" in output
    processes.finish(pictures, folder)
    processes.finish(pictures, tmp_path / "whole", "--config.data.workers=0")
    assert processes.losses(folder) == processes.losses(tmp_path / "whole")


@pytest.mark.fault(
    "the same training with 0, 2 and 3 worker processes",
    "every batch is the same: losses and weights are equal to the last bit",
)
def test_r20_the_number_of_workers_changes_nothing(pictures, tmp_path):
    prints = set()
    for workers in (0, 2, 3):
        folder = tmp_path / f"run-{workers}"
        processes.finish(pictures, folder, f"--config.data.workers={workers}", "--config.steps=12")
        prints.add(processes.fingerprint(folder))
        assert processes.losses(folder) == processes.losses(tmp_path / "run-0")
    assert len(prints) == 1


@pytest.mark.fault(
    "SIGUSR1, as SLURM sends it before the time is up, with stop_signal=SIGUSR1",
    "the step is finished and saved; exit code 138",
)
def test_r5_a_signal_of_the_scheduler(config_path, tmp_path):
    folder = tmp_path / "run"
    process = processes.start(config_path, folder, "--config.stop_signal=SIGUSR1")
    processes.wait_until(processes.after_step(folder, 6), process)
    process.send_signal(signal.SIGUSR1)
    code, output = processes.end(process)
    assert code == 138, output
    assert f"Stopped at step {processes.newest_row(folder)}, saved" in output
