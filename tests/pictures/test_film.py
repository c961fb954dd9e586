"""Pictures as a GIF: their pixels, order and time."""

import numpy as np
import PIL.Image
import pytest

from vit_jax.pictures.film import frame_places, write_gif


def pngs(tmp_path, *colours, size=(31, 47), mode="RGB"):
    for number, colour in enumerate(colours):
        PIL.Image.new(mode, size[::-1], colour).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(len(colours))]


def frames_of(path):
    with PIL.Image.open(path) as gif:
        assert gif.format == "GIF"
        assert gif.info["loop"] == 0  # without end
        for number in range(gif.n_frames):
            gif.seek(number)
            yield np.asarray(gif.convert("RGB")).astype(int), gif.info["duration"]


def test_frames_follow_one_another_and_the_last_is_held(tmp_path):
    colours = [(255, 255, 255), (200, 10, 30), (0, 90, 250)]
    write_gif(pngs(tmp_path, *colours), tmp_path / "a.gif", seconds=0.5, hold=2)
    frames = list(frames_of(tmp_path / "a.gif"))
    assert [duration for _, duration in frames] == [500, 500, 2000]
    for (pixels, _), colour in zip(frames, colours, strict=True):
        assert pixels.shape == (31, 47, 3)
        assert np.abs(pixels - colour).max() <= 7


def test_pixels_stay_in_their_places(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    image[2:5, 20:28] = 255
    PIL.Image.fromarray(image).save(tmp_path / "0.png")
    write_gif([tmp_path / "0.png"], str(tmp_path / "a.gif"))
    ((pixels, _),) = frames_of(tmp_path / "a.gif")
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_pictures_and_those_with_a_fourth_channel(tmp_path, mode):
    colour = 200 if mode == "L" else (200, 200, 200, 255)
    write_gif(pngs(tmp_path, colour, mode=mode), tmp_path / "a.gif")
    ((pixels, _),) = frames_of(tmp_path / "a.gif")
    assert np.abs(pixels - 200).max() <= 7


def test_long_films_hurry_and_leave_frames_out(tmp_path):
    colours = [(number, 255 - number, 0) for number in range(0, 240, 2)]
    write_gif(pngs(tmp_path, *colours, size=(8, 8)), tmp_path / "a.gif", seconds=1, hold=1)
    frames = list(frames_of(tmp_path / "a.gif"))
    assert len(frames) <= 60
    assert sum(duration for _, duration in frames) <= 31_000


def test_places_of_frames():
    assert frame_places(1) == [0]
    assert frame_places(60) == list(range(60))
    places = frame_places(300)
    assert len(places) == len(set(places)) == 60
    assert (places[0], places[-1]) == (0, 299)


def test_frames_of_other_sizes_and_no_frames_are_refused(tmp_path):
    (first,) = pngs(tmp_path, (1, 2, 3))
    PIL.Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other\.png has another size than .*0\.png"):
        write_gif([first, tmp_path / "other.png"], tmp_path / "a.gif")
    with pytest.raises(ValueError, match="no frames"):
        write_gif([], tmp_path / "a.gif")
