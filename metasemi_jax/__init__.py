"""MetaSemi: semi-supervised learning with meta-gradients, in JAX and Flax."""
