import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import ViT
from vit_jax.models.initializers import fused_kernel

# Large enough that extremes and standard deviations are sharp, and no two sizes are equal.
FIELDS = {
    "patch_size": (8, 6),
    "width": 256,
    "depth": 1,
    "num_heads": 4,
    "head_dim": 48,
    "mlp_dim": 640,
    "pool": "map",
    "class_token": True,
    "num_registers": 16,
    "representation": 320,
    "num_classes": 500,
}
WIDTH, INNER, HIDDEN, PATCH, REPRESENTATION = 256, 4 * 48, 640, 8 * 6 * 3, 320


@pytest.fixture(scope="module")
def initial(jit):
    """`initial(**fields)`: the initial parameters, as NumPy arrays by their path."""

    def initial(**fields):
        images = jnp.zeros((1, 64, 48, 3))
        params = jit(ViT(**FIELDS | fields).init)(jax.random.key(0), images)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {"/".join(key.key for key in path): leaf for path, leaf in leaves}

    return initial


@pytest.fixture(scope="module")
def paper(initial):
    return initial()


@pytest.fixture(scope="module")
def torch_scheme(initial):
    return initial(init_scheme="torch", head_zero_init=False)


def assert_uniform(values, bound):
    """Uniform on (-bound, bound): by its extremes, mean and standard deviation."""
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    # Of n values the largest misses the bound by about bound / n.
    assert values.max() > bound * (1 - 10 / values.size)
    assert values.min() < -bound * (1 - 20 / values.size)
    stddev = bound / np.sqrt(3)
    assert abs(values.mean()) < 4 * stddev / np.sqrt(values.size)
    # The variance of a uniform sample's variance is 4/5 of its square, over n.
    assert values.std() == pytest.approx(stddev, rel=4 * np.sqrt(0.2 / values.size))


def assert_normal(values, stddev):
    assert abs(values.mean()) < 4 * stddev / np.sqrt(values.size)
    assert values.std() == pytest.approx(stddev, rel=4 * np.sqrt(0.5 / values.size))
    assert np.abs(values).max() > 2 * stddev


def xavier(inputs, outputs):
    return np.sqrt(6 / (inputs + outputs))


ATTENTION = "encoder/block_0/attn"


@pytest.mark.parametrize(
    ("path", "parts", "inputs", "outputs"),
    [
        # q, k and v one by one: as one matrix they would have two thirds of the bound.
        (f"{ATTENTION}/qkv/kernel", 3, WIDTH, INNER),
        (f"{ATTENTION}/proj/kernel", 1, INNER, WIDTH),
        ("encoder/block_0/mlp/fc1/kernel", 1, WIDTH, HIDDEN),
        ("encoder/block_0/mlp/fc2/kernel", 1, HIDDEN, WIDTH),
        ("map_pool/q/kernel", 1, WIDTH, WIDTH),
        ("map_pool/kv/kernel", 2, WIDTH, WIDTH),
        ("map_pool/proj/kernel", 1, WIDTH, WIDTH),
        ("map_pool/mlp/fc1/kernel", 1, WIDTH, HIDDEN),
        ("map_pool/mlp/fc2/kernel", 1, HIDDEN, WIDTH),
    ],
)
def test_paper_kernels_are_xavier_uniform(paper, path, parts, inputs, outputs):
    kernel = paper[path]
    assert kernel.shape == (inputs, parts * outputs)
    split = np.split(kernel, parts, axis=1)
    for part in split:
        assert_uniform(part, xavier(inputs, outputs))
    for other in split[1:]:
        # Drawn apart: parts of one draw would be correlated.
        correlation = np.corrcoef(split[0].ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(other.size)


@pytest.mark.parametrize("block", ["encoder/block_0", "map_pool"])
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_paper_mlp_biases_are_normal_and_tiny(paper, block, layer):
    assert_normal(paper[f"{block}/mlp/{layer}/bias"], 1e-6)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("head/kernel", (REPRESENTATION, 500)),
        ("head/bias", (500,)),
        ("representation/bias", (REPRESENTATION,)),
        ("cls_token", (1, 1, WIDTH)),
        ("patch_embed/bias", (WIDTH,)),
        (f"{ATTENTION}/qkv/bias", (3 * INNER,)),
        (f"{ATTENTION}/proj/bias", (WIDTH,)),
        ("map_pool/q/bias", (WIDTH,)),
        ("map_pool/kv/bias", (2 * WIDTH,)),
        ("map_pool/proj/bias", (WIDTH,)),
    ],
)
def test_paper_zeros(paper, path, shape):
    np.testing.assert_array_equal(paper[path], np.zeros(shape))


def test_paper_other_parameters(paper):
    assert_normal(paper["pos_embed"], 0.02)
    assert_normal(paper["register_tokens"], 0.02)
    # LeCun: variance 1 / inputs; of a normal cut off at two standard deviations.
    for path, inputs in (("patch_embed/kernel", PATCH), ("representation/kernel", WIDTH)):
        stddev = inputs**-0.5
        assert paper[path].std() == pytest.approx(stddev, rel=0.02)
        assert abs(paper[path].mean()) < 4 * stddev / np.sqrt(paper[path].size)
        assert np.abs(paper[path]).max() == pytest.approx(2 * stddev / 0.87962566, rel=0.01)
    assert_uniform(paper["map_pool/probe"], xavier(1, WIDTH))


@pytest.mark.parametrize("scheme", ["paper", "torch"])
def test_norms_start_as_the_identity(paper, torch_scheme, scheme):
    params = {"paper": paper, "torch": torch_scheme}[scheme]
    norms = {path for path in params if path.endswith("/scale")}
    assert norms == {
        f"{name}/scale"
        for name in ("encoder/block_0/norm1", "encoder/block_0/norm2", "norm", "map_pool/norm")
    }
    for path in norms:
        np.testing.assert_array_equal(params[path], np.ones(WIDTH))
        np.testing.assert_array_equal(params[path.replace("scale", "bias")], np.zeros(WIDTH))


def test_standard_deviations_that_are_asked_for(initial):
    params = initial(
        depth=0, pool="cls", cls_init_stddev=0.5, position_init_stddev=0.1, head_zero_init=False
    )
    assert_normal(params["cls_token"], 0.5)
    assert_normal(params["pos_embed"], 0.1)
    assert params["head/kernel"].std() == pytest.approx(REPRESENTATION**-0.5, rel=0.02)
    np.testing.assert_array_equal(params["head/bias"], np.zeros(500))


@pytest.mark.parametrize(
    ("path", "inputs"),
    [
        ("patch_embed", PATCH),
        (f"{ATTENTION}/qkv", WIDTH),
        (f"{ATTENTION}/proj", INNER),
        ("encoder/block_0/mlp/fc1", WIDTH),
        ("encoder/block_0/mlp/fc2", HIDDEN),
        ("map_pool/q", WIDTH),
        ("map_pool/kv", WIDTH),
        ("map_pool/proj", WIDTH),
        ("map_pool/mlp/fc1", WIDTH),
        ("map_pool/mlp/fc2", HIDDEN),
        ("representation", WIDTH),
        ("head", REPRESENTATION),
    ],
)
def test_torch_scheme_draws_as_torch_does(torch_scheme, path, inputs, torch):
    kernel, bias = torch_scheme[f"{path}/kernel"], torch_scheme[f"{path}/bias"]
    outputs = kernel.shape[-1]
    assert kernel.size == inputs * outputs
    bound = inputs**-0.5
    torch.manual_seed(0)
    if kernel.ndim == 4:
        reference = torch.nn.Conv2d(3, outputs, kernel.shape[:2])
    else:
        reference = torch.nn.Linear(inputs, outputs)
    for ours, theirs in ((kernel, reference.weight), (bias, reference.bias)):
        assert_uniform(theirs.detach().numpy().ravel(), bound)
        assert_uniform(ours.ravel(), bound)


def test_torch_scheme_with_the_head_at_zero(initial):
    params = initial(depth=0, pool="cls", init_scheme="torch")
    np.testing.assert_array_equal(params["head/kernel"], np.zeros((REPRESENTATION, 500)))
    np.testing.assert_array_equal(params["head/bias"], np.zeros(500))


@pytest.mark.parametrize("scheme", ["paper", "torch"])
def test_one_key_one_draw(scheme, jit):
    init = jit(lambda key: fused_kernel(scheme, parts=3)(key, (8, 24)))
    first, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
