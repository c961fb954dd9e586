"""A report as a browser shows it, its script included."""

import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest
from pictures.report_runs import HOSTILE, SECTIONS, Page, make_run

from vit_jax.pictures.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")


def chromium(page, tmp_path, *options):
    """What the browser prints for a page."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run-1")


@needs_chromium
def test_a_browser_shows_all_of_it_and_runs_no_foreign_script(tmp_path):
    folder = make_run(tmp_path / "a <b>run", HOSTILE)
    dumped = chromium(write_report(folder), tmp_path, "--dump-dom")
    page = Page(dumped)
    assert page.sections == SECTIONS
    for name in (*HOSTILE[:2], "a <b>run"):
        assert name in page.text
    assert page.all("html")[0]["class"] == "scripted"
    # The last thing that the script does without being asked.
    assert {attrs["class"] for attrs in page.all("img")} == {"opens"}


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 3000), (390, 3000)])
def test_a_screenshot(run, tmp_path, width, height):
    path = tmp_path / "shot.png"
    options = f"--window-size={width},{height}", f"--screenshot={path}"
    chromium(write_report(run), tmp_path, *options)
    with PIL.Image.open(path) as image:
        assert image.size == (width, height)
        pixels = np.asarray(image.convert("RGB"))
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):  # the curves are there
        assert (np.abs(pixels.astype(int) - colour).max(axis=-1) <= 8).sum() > 100


@needs_chromium
def test_values_under_the_pointer_and_zoom(run, tmp_path):
    text = re.sub("<meta http-equiv[^>]*>", "", write_report(run).read_text())
    asked = """<script>
    zoom(1.5, 3);
    const panel = document.querySelector('svg.panel'), box = panel.getBoundingClientRect();
    const right = {clientX: box.left + box.width * .95, clientY: box.top + 50};
    panel.dispatchEvent(new PointerEvent('pointermove', right));
    document.querySelector('.pictures img').click();
    </script></body>"""
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("</body>", asked))
    page = Page(chromium(changed, tmp_path, "--dump-dom"))
    shown = re.search(
        r"epoch (\S+) (\S+) training (\S+) training, epoch mean (\S+) held", page.text
    )
    assert float(shown[1]) == pytest.approx(2.95, abs=0.05)
    assert [float(value) for value in shown.groups()[1:]] == pytest.approx([1, 0.667, 0.333], 1e-3)
    boxes = [attrs["viewbox"] for attrs in page.all("svg") if attrs["class"] == "plot"]
    left, top, width, height = map(float, boxes[0].split())
    assert (left, width) == (500, 500)
    # From a third less to one and a half more of a twentieth of what lies between them.
    low, high = 1 / 3 - 0.05 * (1.5 - 1 / 3), 1.5 + 0.05 * (1.5 - 1 / 3)
    assert top == pytest.approx(1000 * (1 - high / 3.15), abs=0.1)
    assert height == pytest.approx(1000 * (high - low) / 3.15, abs=0.1)
    assert page.all("img")[0]["class"] == "opens large"
