"""The methods, by name. A method is a loss function; `meta` transforms the targets of any of them.

The files of the methods repeat imports, options and the call of `semi_supervised` on purpose: each shows one
method whole, and its signature is the list of its options. `network` is the student everywhere.
"""

from metasemi_jax.methods.create import META_MOVES, create_method, method_options
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Inputs, Keys, Method, Outcome, Targets
from metasemi_jax.methods.network import Network, as_network
from metasemi_jax.methods.registry import METHODS
from metasemi_jax.methods.semi_supervised import semi_supervised

__all__ = [
    'META_MOVES',
    'METHODS',
    'Inputs',
    'Keys',
    'Meta',
    'Method',
    'Network',
    'Outcome',
    'Targets',
    'as_network',
    'create_method',
    'method_options',
    'semi_supervised',
]  # fmt: skip
