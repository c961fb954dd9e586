"""From the names and layouts of PyTorch's layers to those of our parameter tree.

Everything is an array under the name that `state_dict` gives it, so gradients map as weights do.
"""

import numpy as np

State = dict[str, np.ndarray]


def linear(state: State, name: str) -> dict:
    """torch.nn.Linear: its weight is [out, in], our kernel [in, out]."""
    params = {"kernel": state[f"{name}.weight"].T}
    if f"{name}.bias" in state:
        params["bias"] = state[f"{name}.bias"]
    return params


def norm(state: State, name: str) -> dict:
    """torch.nn.LayerNorm."""
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def convolution(state: State, name: str) -> dict:
    """torch.nn.Conv2d: [d, c, ph, pw] becomes [ph, pw, c, d]."""
    kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
    return {"kernel": kernel, "bias": state[f"{name}.bias"]}


def flat_patches(state: State, name: str, patch_size: tuple[int, int]) -> dict:
    """torch.nn.Linear on patches flattened as [c * ph * pw]."""
    weight = state[f"{name}.weight"]
    unflattened = weight.reshape(len(weight), -1, *patch_size)
    return convolution(state | {f"{name}.weight": unflattened}, name)


def separate_qkv(state: State, *names: str) -> dict:
    """Three torch.nn.Linear, for q, k and v, side by side."""
    parts = [linear(state, name) for name in names]
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}


def per_head_qkv(state: State, name: str, num_heads: int) -> dict:
    """One torch.nn.Linear whose outputs are [heads, 3, head_dim]; ours are [3, heads, head_dim]."""

    def reorder(x):
        return x.reshape(*x.shape[:-1], num_heads, 3, -1).swapaxes(-3, -2).reshape(x.shape)

    return {key: reorder(value) for key, value in linear(state, name).items()}
