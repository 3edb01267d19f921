"""Checkpoints of the authors' PyTorch program, and PyTorch state dicts as Flax variables."""

from metasemi_jax.torch_import.state_dict import convert_state_dict, to_state_dict

__all__ = ['convert_state_dict', 'to_state_dict']
