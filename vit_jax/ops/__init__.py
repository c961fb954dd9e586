"""Pure functions of arrays and pytrees; imports nothing else of vit_jax."""
