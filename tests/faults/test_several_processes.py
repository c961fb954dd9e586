"""Two processes with two devices each that train as one, stopped, killed and gone on with."""

import signal
import time

import pytest
from faults import processes
from faults.small_training import make_colours, streaming

# Each of them starts several processes.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(config_path, tmp_path_factory):
    """The folder of a run of two processes that nobody has interrupted, and what they printed."""
    folder = tmp_path_factory.mktemp("runs") / "together"
    return folder, processes.finish_several(config_path, folder)


def assert_close(folder, expected):
    for split in ("train", "train-epoch", "eval", "test"):
        found = processes.losses(folder, split)
        assert found, split
        assert found == pytest.approx(processes.losses(expected, split), abs=1e-5), split


def assert_gone_on(config_path, folder, expected):
    """The job is started again and ends as one that nobody has interrupted."""
    outputs = processes.finish_several(config_path, folder)
    assert "Going on from the checkpoint at step" in outputs[0]
    processes.assert_same_curves(folder, expected)


def test_two_processes_train_as_one_does(together, whole):
    folder, (first, second) = together
    assert_close(folder, whole)
    assert " on 4 cpu" in first
    assert second == "", "one of them speaks for all"
    there = {path.name for path in folder.iterdir()}
    assert {"config.json", "metrics.jsonl", "summary.json", "checkpoints"} <= there


@pytest.mark.long
def test_each_process_decodes_its_share_alone(config_path, whole, tmp_path):
    folder = tmp_path / "run"
    processes.finish_several(config_path, folder, "--config.data.feed=streaming")
    assert_close(folder, whole)


@pytest.mark.long
@pytest.mark.parametrize("order", ["together first", "alone first"])
def test_checkpoints_are_read_by_any_number_of_processes(order, config_path, whole, tmp_path):
    folder = tmp_path / "run"
    together = order == "together first"
    starts = processes.start_several if together else lambda *a: [processes.start(*a)]
    started = starts(config_path, folder)
    processes.wait_until(processes.after_step(folder, 20), started[0])
    started[0].send_signal(signal.SIGTERM)
    ends = [processes.end(process) for process in started]
    assert {code for code, _ in ends} == {143}, ends
    (processes.finish if together else processes.finish_several)(config_path, folder)
    assert_close(folder, whole)


@pytest.mark.long
def test_a_state_in_shares_of_two_processes_is_read_by_one(config_path, tmp_path):
    folder = tmp_path / "run"
    model = ("--config.model.width=128", "--config.model.mlp_dim=256")
    processes.finish_several(config_path, folder, *model, "--config.fsdp=4", "--config.steps=4")
    proofs = folder / "checkpoints" / "4" / "proof"
    assert {"notes.json", "shares-1.json"} <= {path.name for path in proofs.iterdir()}
    output = processes.finish(config_path, folder, *model, "--config.steps=8")
    assert "Going on from the checkpoint at step 4" in output
    outputs = processes.finish_several(
        config_path, folder, *model, "--config.fsdp=4", "--config.steps=12"
    )
    assert "Going on from the checkpoint at step 8" in outputs[0]


@pytest.mark.long
@pytest.mark.fault(
    "SIGTERM to one of two processes that train as one",
    "both stop after the same step, with a checkpoint and code 143; the job started again ends "
    "like an uninterrupted one, to the last bit",
)
def test_r24_a_signal_to_one_process_stops_both(config_path, together, tmp_path):
    folder = tmp_path / "run"
    both = processes.start_several(config_path, folder)
    processes.wait_until(processes.after_step(folder, 10), both[0])
    both[1].send_signal(signal.SIGTERM)
    ends = [processes.end(process) for process in both]
    assert [code for code, _ in ends] == [143, 143], ends
    stopped = processes.newest_row(folder)
    assert f"Stopped at step {stopped}, saved" in ends[0][1]
    assert (folder / "checkpoints" / str(stopped)).is_dir()
    assert_gone_on(config_path, folder, together[0])


@pytest.mark.fault(
    "SIGKILL to one of two processes that train as one",
    "the other ends within the time set for signs of life, with code 1 and a line that says so; "
    "the job started again goes on from the newest checkpoint and ends like an uninterrupted one",
)
def test_r24_a_killed_process_ends_the_other(config_path, together, tmp_path):
    folder = tmp_path / "run"
    first, second = processes.start_several(config_path, folder)
    processes.wait_until(processes.after_step(folder, 10), first)
    second.kill()
    began = time.monotonic()
    code, output = processes.end(first)
    assert time.monotonic() - began < 20, "10 s, and what two busy cores take"
    processes.end(second)
    assert code == 1, output
    assert len([line for line in output.splitlines() if line.startswith("Error: ")]) == 1, output
    assert "it goes on from its newest checkpoint" in output
    assert "Traceback" not in output
    assert_gone_on(config_path, folder, together[0])


@pytest.mark.long
@pytest.mark.fault(
    "SIGSTOP to one of two processes that train as one: it lives, and does nothing",
    "the other ends after the time set for signs of life, naming the process that gives none",
)
def test_r24_a_process_that_hangs_ends_the_other(config_path, tmp_path):
    folder = tmp_path / "run"
    first, second = processes.start_several(config_path, folder)
    processes.wait_until(processes.after_step(folder, 10), first)
    second.send_signal(signal.SIGSTOP)
    code, output = processes.end(first)
    second.kill()
    processes.end(second)
    assert code == 1, output
    assert "Error: process 1 of 2 has given no sign of life for 10 s." in output


@pytest.mark.long
@pytest.mark.fault(
    "SIGKILL to process 0 of two, with which JAX keeps what processes know of each other",
    "the other ends at once, with another code than 0; JAX's own words may stand where ours would",
)
def test_r24_without_process_0_the_other_ends(config_path, tmp_path):
    folder = tmp_path / "run"
    first, second = processes.start_several(config_path, folder)
    processes.wait_until(processes.after_step(folder, 10), first)
    first.kill()
    code, output = processes.end(second)
    processes.end(first)
    assert code != 0
    assert "another task died" in output or "it goes on from its newest checkpoint" in output


@pytest.mark.long
@pytest.mark.fault(
    "a file without a picture in the share of one of two processes, `on_bad_image=error`",
    "that process names the file and ends with code 1; the other ends too, with one line, and does "
    "not wait for ever",
)
def test_r24_an_error_of_one_process_ends_the_other(tmp_path):
    root = make_colours(tmp_path / "pictures", each=16)
    torn = sorted((root / "train").rglob("*.png"))[0]
    torn.write_bytes(b"no picture")
    path = processes.write_config(tmp_path, streaming(root, workers=0))
    ends = [processes.end(p) for p in processes.start_several(path, tmp_path / "run")]
    assert [code for code, _ in ends] == [1, 1], ends
    errors = [
        [line for line in output.splitlines() if line.startswith("Error: ")] for _, output in ends
    ]
    assert [len(lines) for lines in errors] == [1, 1], ends
    lines = [line for [line] in errors]
    [named] = [line for line in lines if f"{torn.parent.name}/{torn.name}" in line]
    assert "is not an image" in named
    [other] = [line for line in lines if line != named]
    assert "it goes on from its newest checkpoint" in other


@pytest.mark.fault(
    "one of two processes is never started",
    "the other ends after the time set for joining, and says how many were waited for, and where",
)
def test_r24_a_process_that_never_comes_is_said():
    code = (
        "from vit_jax import launch, processes as p\n"
        f"place = launch.Place(2, 0, '127.0.0.1:{processes.free_port()}')\n"
        "with p.joined(place, join_seconds=2): pass"
    )
    code, output = processes.run_python(code)
    assert code == 1, output
    assert "Error: process 0 of 2 has waited 2 s for the others at 127.0.0.1:" in output


def test_what_several_processes_need_is_said_before_they_wait(config_path, tmp_path):
    code, output = processes.run(config_path, tmp_path, "--num-processes=2")
    assert code == 2
    assert "--coordinator, --process-id: missing" in output
