"""The folder of a run: its files, what they hold, who may write there."""

from metasemi_jax.workdir.folder import Workdir

__all__ = ['Workdir']
