"""report.html: every number, name and picture of a run in one file that loads nothing else."""

import base64
import hashlib
import json
import re
import shlex
import shutil

import pytest
from pictures.report_runs import (
    HOSTILE,
    SECTIONS,
    make_run,
    metrics_rows,
    page_of,
    save_picture,
    summary_of,
)

from vit_jax.config import Config, to_json
from vit_jax.pictures.report import write_report


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run-1")


def test_the_numbers_of_a_run(run):
    page = page_of(run)
    assert page.sections == SECTIONS
    text = page.text.replace("\xa0", " ")
    for words in (
        "run-1 complete",
        "Test accuracy 46.67% 28 of 60 images; 95 % interval 34.6 to 59.1 %",
        "Held-out accuracy 70.00% best 75.00% after epoch 2",
        "Loss 0.9961 nats; test 0.9961, held out 0.3333, training 0.6667",
        "Calibration error 6.60% test:",
        "Length 3 epochs 30 steps of 16 images",
        "Speed 13 img/s",
        "Time 3 min 42 s 14.3 s to the first step, 0.02 s waiting for input, 2.5 s drawing",
        "Parameters 2.77 M 2,771,331",
        "FLOPs 5.08 G",
        "Device 2 x cpu",
        "1 without a test image is left out. class accuracy images dog 10.00% 40 cat 85.00% 20",
        "train 60 2 classes of 20 to 40 32 x 48 x 3 uint8 resident 4d71017e6012f27e",
        "Left out: 1 file without a picture cat.jpg cut short",
        "jax 0.10.2 device 2 x cpu",
        "Run folder: x data warning: dog Done",
    ):
        assert words in text
    assert "Top-5" not in text  # of three classes all are among the first five
    assert text.count("data warning: dog") == 2  # in the log, and at the top


def test_the_page_loads_nothing_and_runs_its_own_script_only(run):
    page = page_of(run)
    sources = [attrs["src"] for _, attrs in page.elements if "src" in attrs]
    assert len(sources) == 3
    assert all(re.match(r"data:image/(png|gif);base64,", source) for source in sources)
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = [attrs["href"] for _, attrs in page.elements if "href" in attrs]
    assert len(links) == len(SECTIONS)
    assert {link.removeprefix("#") for link in links} == ids
    text = (run / "report.html").read_text()
    assert not re.search(r"url\(|@import|<link", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_from_outside_are_text(tmp_path):
    folder = make_run(tmp_path / "a \"b\" & <i>'c'", HOSTILE)
    save_picture(folder / "pictures" / "x\"><script>'.png")
    page = page_of(folder)
    assert len(page.all("script")) == 1
    assert not page.all("i")
    assert len(page.all("b")) == len(page.all("figcaption"))  # those of the report itself
    for name in (*HOSTILE[:2], folder.name, f"data warning: {HOSTILE[1]}", "x\"><script>'.png"):
        assert name in page.text
    # A command is one word to the shell, whatever the folder is called.
    commands = [shlex.split(text) for text in page.texts if text.startswith("vit-jax")]
    assert commands == [
        ["vit-jax", "evaluate", str(folder)],
        ["vit-jax", "predict", str(folder), "photo.jpg"],
        ["vit-jax", "attention", str(folder), "photo.jpg"],
    ]


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("summary.json", {"Classes", "Environment"}),
        ("config.json", {"Config"}),
        ("data.json", set()),
        ("metrics.jsonl", {"Curves"}),
        ("log.txt", {"Log"}),
        ("bad_images.txt", set()),
        ("pictures", {"Pictures"}),
    ],
)
def test_what_is_missing_leaves_its_section_out(run, name, lost):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(run)
    assert set(SECTIONS) - set(page.sections) == lost
    assert not re.search(r"\b(None|nan|NaN|inf)\b", page.text)


def test_a_folder_with_nothing_in_it(tmp_path):
    page = page_of(tmp_path)
    assert page.sections == ["What next"]
    assert "not ended" in page.text
    assert not page.all("dl")


def test_a_stopped_run_without_test_and_evaluation(run):
    summary = summary_of(["cat", "dog", "eel"])
    summary |= {key: None for key in summary if key.startswith(("test_", "eval_"))}
    summary |= {"status": "stopped", "train_images_per_second": None, "bad_images": 0}
    summary["seconds_to_first_step"] = float("nan")
    (run / "summary.json").write_text(json.dumps(summary))
    rows = [row for row in metrics_rows() if row["split"] == "train"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(run)
    assert "run-1 stopped" in page.text
    assert not re.search(r"\b(None|nan|NaN|inf)\b", page.text)
    assert not re.search("accuracy [0-9]|Loss [0-9]|Speed|Calibration|first step", page.text)
    assert "Classes" not in page.sections
    assert {"status open"} <= {attrs.get("class") for attrs in page.all("span")}


def test_held_out_images_are_counted_where_every_one_was_read(run):
    data = {"eval": {"examples": 153}}
    (run / "data.json").write_text(json.dumps(data))
    assert "of 153 images" not in page_of(run).text  # one of them has no picture
    (run / "bad_images.txt").unlink()
    assert "107 of 153 images" in page_of(run).text  # 0.7 of them


def test_a_file_that_cannot_be_read_is_said(run):
    (run / "data.json").write_text('{"train": ')
    (run / "summary.json").write_text("[1]")
    text = page_of(run).text
    assert "data.json cannot be read" in text
    assert "summary.json cannot be read" in text


def test_the_worst_classes_come_first_and_two_hundred_are_listed(run):
    names = [f"class {i:03}" for i in range(230)]
    accuracies = {name: (i * 7 % 230) / 230 for i, name in enumerate(names)}
    (run / "summary.json").write_text(json.dumps({"test_per_class_accuracy": accuracies}))
    page = page_of(run)
    shown = re.findall(r"(class \d{3}) ([\d.]+)%", page.text)
    assert [name for name, _ in shown] == sorted(names, key=accuracies.__getitem__)[:200]
    assert [share for _, share in shown[:2]] == ["0.00", "0.43"]
    assert "These are the 200 worst of 230." in page.text


def test_fields_that_differ_from_the_defaults_come_first(run):
    defaults = json.loads(to_json(Config()))
    text = page_of(run, defaults).text
    table = text[text.index("field here default") : text.index("All of config.json")]
    assert table.split()[3:] == (
        ["data.root", '"/data/cat"', "null", "batch_size", "16", "128", "epochs", "3", "null"]
    )
    assert '"batch_size": 16' in text
    assert "field here default" not in page_of(run).text  # nobody said what the defaults are


def test_pictures_come_in_order_with_how_to_read_them(run):
    for number in range(1, 13):
        save_picture(run / f"pictures/attention/epoch_{number}.png")
    for name in ("batch.png", "filters.png", "predictions.PNG"):
        save_picture(run / "pictures" / name)
    (run / "pictures/mistakes.png").write_bytes(b"no picture")
    (run / "pictures/notes.txt").write_text("passed over")
    page = page_of(run)
    names = re.findall(r"pictures/(\S+)", page.text)
    frames = [f"attention/epoch_{number}.png" for number in (1, 3, 5, 8, 10, 12)]
    assert names == [
        "confusion_matrix.png",
        "batch.png",
        "attention.gif",
        *frames,
        "attention/",
        "filters.png",
        "predictions.PNG",
        "zebra.png",
    ]
    assert "6 of the 12 pictures in pictures/attention/ are shown." in page.text
    assert "Rows are the labels of the test images" in page.text
    assert page.text.count("bright patches are") == 2  # the GIF's, and once for the folder's
    assert {(attrs["width"], attrs["height"]) for attrs in page.all("img")} == {("30", "20")}
    content = (run / "pictures/confusion_matrix.png").read_bytes()
    assert page.all("img")[0]["src"].partition(",")[2] == base64.b64encode(content).decode()


def test_the_picture_of_the_curves_stands_in_where_there_are_no_rows(run):
    assert "pictures/curves.png" not in page_of(run).text
    (run / "metrics.jsonl").unlink()
    assert "pictures/curves.png" in page_of(run).text


def test_an_old_report_is_replaced_and_nothing_else_is_left(run):
    (run / "report.html").write_text("old")
    before = {path.name for path in run.iterdir()}
    write_report(run)
    assert {path.name for path in run.iterdir()} == before
    assert (run / "report.html").read_text() != "old"
