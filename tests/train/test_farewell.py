"""The last lines of a training: on a terminal in a table and below it, elsewhere one by one."""

import io
import shlex

import pytest
from rich.console import Console

from vit_jax.train.farewell import farewell_lines, show_farewell


@pytest.fixture
def folder(tmp_path):
    """A run folder with a report and pictures, and a name that a shell would take apart."""
    folder = tmp_path / "a rather long name, [red]for a folder of a run[/red] that's finished"
    (folder / "pictures").mkdir(parents=True)
    (folder / "report.html").touch()
    return folder


@pytest.fixture
def summary():
    return {
        "steps": 1600,
        "train_images_per_second": 1234.5,
        "seconds_input_wait": 0.024,
        "seconds_total": 222.3,
        "eval_accuracy": 0.5,
        "test_accuracy": 28 / 60,
        "test_examples": 60,
    }


def shown(folder, summary, width, best_step=160):
    """What stands on a terminal of that width before it folds long lines, and what is logged."""
    screen, logged = io.StringIO(), []
    console = Console(file=screen, width=width, force_terminal=True, color_system=None)
    show_farewell(folder, summary, best_step, logged.append, True, console)
    return screen.getvalue().splitlines(), logged


def test_plain_lines(folder, summary):
    assert farewell_lines(folder, summary, 160) == [
        "Done in 222.3 s: 1,234 img/s in training, 0.02 s waiting for input",
        "Test accuracy: 46.67% of 60 images",
        "Best held-out accuracy among the checkpoints: step 160",
        f"Run folder: {folder}",
        f"Report: {folder}/report.html",
        f"Pictures: {folder}/pictures",
        f"Evaluate again: vit-jax evaluate {shlex.quote(str(folder))}",
        f"Predict on an image: vit-jax predict {shlex.quote(str(folder))} photo.jpg",
        f"See what it looks at: vit-jax attention {shlex.quote(str(folder))} photo.jpg",
    ]


def test_without_a_terminal_the_plain_lines_are_all(folder, summary, capsys):
    lines = []
    show_farewell(folder, summary, 160, lines.append, False)
    assert lines == farewell_lines(folder, summary, 160)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [100, 60])
def test_a_terminal_shows_a_table_and_the_log_gets_the_lines(folder, summary, width):
    lines, logged = shown(folder, summary, width)
    assert logged == farewell_lines(folder, summary, 160)
    assert lines[:9] == [
        "",
        "Training complete: 1,600 steps                        ",
        "╭───────────────────┬────────────────────────────────╮",
        "│ Test accuracy     │ 46.67% of 60 images            │",
        "│ Best checkpoint   │ step 160, by held-out accuracy │",
        "│ Time              │ 3 min 42 s                     │",
        "│ Speed             │ 1,234 img/s in training        │",
        "│ Waiting for input │ 0.02 s                         │",
        "╰───────────────────┴────────────────────────────────╯",
    ]
    # Paths and commands are whole lines, longer than the terminal: it copies each in one piece.
    below = lines[9:]
    assert below[:3] == [
        f"Run folder  {folder}",
        f"Report      {folder}/report.html",
        f"Pictures    {folder}/pictures",
    ]
    assert [shlex.split(line) for line in below if "vit-jax" in line] == [
        ["vit-jax", "evaluate", str(folder)],
        ["vit-jax", "predict", str(folder), "photo.jpg"],
        ["vit-jax", "attention", str(folder), "photo.jpg"],
    ]
    assert max(map(len, below)) > width


def test_the_results_of_several_views(folder, summary):
    summary["test_accuracy_mirror"] = 0.48
    assert "Test accuracy, mirror: 48.00% of 60 images" in farewell_lines(folder, summary, 160)
    assert any("48.00% of 60 images" in line for line in shown(folder, summary, 100)[0])


def test_a_run_without_test_speed_and_pictures(tmp_path, summary):
    summary |= {"test_examples": None, "test_accuracy": None, "train_images_per_second": None}
    commands = [f"vit-jax evaluate {tmp_path}", f"vit-jax predict {tmp_path} photo.jpg"]
    commands.append(f"vit-jax attention {tmp_path} photo.jpg")
    lines = farewell_lines(tmp_path, summary, None)
    assert lines[:3] == [
        "Done in 222.3 s, 0.02 s waiting for input",
        "Held-out accuracy: 50.00%",
        f"Run folder: {tmp_path}",
    ]
    assert [line.partition(": ")[2] for line in lines[3:]] == commands
    summary["eval_accuracy"] = None
    text = "\n".join(
        [*farewell_lines(tmp_path, summary, None), *shown(tmp_path, summary, 100, None)[0]]
    )
    for absent in ("accuracy", "checkpoint", "img/s", "Report", "Pictures", "None"):
        assert absent not in text
