"""A network trained on arrays in memory, without a folder: what `metasemi_jax.sklearn` is made of."""
