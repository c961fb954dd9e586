"""The commands of `vit-jax`, a file each: what they take, and what they print."""
