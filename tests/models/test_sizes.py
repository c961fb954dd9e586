import pytest

from vit_jax import SIZES, ViT, parameter_count, vit

# Width, depth, MLP and heads as the papers' tables have them (DeiT 2012.12877; ViT 2010.11929;
# Scaling Vision Transformers 2106.04560; SoViT 2305.13035), and the number of parameters with
# 1000 classes at 224 pixels.
PUBLISHED = {
    "Ti/16": (192, 12, 768, 3, 5_717_416),
    "S/16": (384, 12, 1536, 6, 22_050_664),
    "B/16": (768, 12, 3072, 12, 86_567_656),
    "L/16": (1024, 24, 4096, 16, 304_326_632),
    "So400m/14": (1152, 27, 4304, 16, 413_597_656),
    "H/14": (1280, 32, 5120, 16, 632_045_800),
    "g/14": (1408, 40, 6144, 16, 1_012_611_432),
    "G/14": (1664, 48, 8192, 16, 1_844_440_680),
}


def closed_formula(width, depth, mlp_dim, patch, classes, image=224, channels=3):
    """Parameters of a ViT with class token, learned positions and biases everywhere."""
    patches = (image // patch) ** 2
    embedding = patch * patch * channels * width + width + width + (patches + 1) * width
    attention = 4 * (width * width + width)
    mlp = width * mlp_dim + mlp_dim + mlp_dim * width + width
    norm = 2 * width
    return embedding + depth * (attention + mlp + 2 * norm) + norm + width * classes + classes


def test_every_size_has_a_row():
    assert {name.partition("/")[0] for name in PUBLISHED} == set(SIZES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    width, depth, mlp_dim, num_heads, parameters = PUBLISHED[name]
    patch_size = int(name.partition("/")[2])
    model = vit(name)
    assert model == ViT(
        patch_size=patch_size,
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        num_classes=1000,
    )
    assert closed_formula(width, depth, mlp_dim, patch_size, 1000) == parameters
    assert parameter_count(model) == parameters


@pytest.mark.parametrize(
    ("name", "num_classes", "image_size", "channels"),
    [("Ti/8", 10, 32, 3), ("B/32", 21_843, 384, 3), ("S/4", 7, 28, 1)],
)
def test_parameters_at_other_patches_images_and_classes(name, num_classes, image_size, channels):
    size, _, patch = name.partition("/")
    width, depth, mlp_dim, *_ = SIZES[size]
    expected = closed_formula(width, depth, mlp_dim, int(patch), num_classes, image_size, channels)
    assert parameter_count(vit(name, num_classes), image_size, channels) == expected


def test_fields_go_before_the_published_ones():
    model = vit("B/16", num_classes=None, pool="map", depth=3, patch_size=(8, 4))
    assert (model.num_classes, model.pool, model.depth) == (None, "map", 3)
    assert model.patch_size == (8, 4)
    assert model.width == 768


@pytest.mark.parametrize(
    "name", ["B", "B/", "/16", "B/0", "B/x", "B/-1", "b/16", "X/16", "B/16/2", ""]
)
def test_names_that_are_not_size_and_patch(name):
    with pytest.raises(ValueError, match="expected SIZE/PATCH") as error:
        vit(name)
    message = str(error.value)
    assert f"name={name!r}" in message
    assert "Ti, S, B, L, So400m, H, g, G" in message
    assert "such as 'B/16'" in message
