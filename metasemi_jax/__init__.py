"""MetaSemi: semi-supervised learning with meta-gradients, in JAX and Flax."""

from metasemi_jax.command.start import begin_module

begin_module()
