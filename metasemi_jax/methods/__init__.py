"""The methods, by name. A method is a loss function; `meta` transforms the targets of any of them."""

import inspect
from collections.abc import Callable
from typing import Any

from metasemi_jax.errors import UserError
from metasemi_jax.methods.file_method import load_method
from metasemi_jax.methods.fixmatch import fixmatch
from metasemi_jax.methods.flexmatch import flexmatch
from metasemi_jax.methods.freematch import freematch
from metasemi_jax.methods.ict import ict
from metasemi_jax.methods.mean_teacher import mean_teacher
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.metasemi import metasemi
from metasemi_jax.methods.method import Inputs, Keys, Method, Outcome, Targets
from metasemi_jax.methods.mixmatch import mixmatch
from metasemi_jax.methods.network import Network, as_network
from metasemi_jax.methods.pi_model import pi_model
from metasemi_jax.methods.pseudo_label import pseudo_label
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.softmatch import softmatch
from metasemi_jax.methods.supervised import supervised
from metasemi_jax.methods.temporal_ensembling import temporal_ensembling
from metasemi_jax.methods.uda import uda
from metasemi_jax.methods.vat import vat

__all__ = [
    'METHODS', 'Inputs', 'Keys', 'Meta', 'Method', 'Network', 'Outcome', 'Targets', 'as_network',
    'create_method', 'method_options', 'semi_supervised',
]  # fmt: skip

METHODS = {
    'supervised': supervised,
    'pseudo_label': pseudo_label,
    'pi_model': pi_model,
    'temporal_ensembling': temporal_ensembling,
    'mean_teacher': mean_teacher,
    'vat': vat,
    'ict': ict,
    'mixmatch': mixmatch,
    'uda': uda,
    'fixmatch': fixmatch,
    'flexmatch': flexmatch,
    'freematch': freematch,
    'softmatch': softmatch,
    'metasemi': metasemi,
}
META_MOVES = ('labels', 'weights', 'both')
# Options of every method that has targets, beside `meta` itself; see `Meta`.
META_OPTIONS = {'meta_moves': 'labels', **Meta()._asdict()}
del META_OPTIONS['labels'], META_OPTIONS['weights']


def create_method(name: str, network: Any, **options: Any) -> Method:
    """A method: its `loss` is (params, inputs, keys) -> (scalar, outcome), to be differentiated once.

    Args:
      name: a key of `METHODS`, or 'FILE.py:FUNCTION' for a function of your own that takes the network and
        options and returns a `Method`.
      network: a `Network`, or a model as `create_model` returns it.
      **options: the method's own, as its function lists them; of every method that has targets also `meta`
        (whether the meta-gradient moves them), `meta_moves` ('labels', 'weights' or 'both') and the fields
        `meta_lr`, `estimator`, `epsilon` and `at_inner_step` of `Meta`.

    Raises:
      UserError: an unknown name or option, or a file that cannot be used.
    """
    known = method_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(
            f"method '{name}' has no option '{unknown[0]}'; its options: {', '.join(sorted(known)) or 'none'}"
        )
    own = {option: value for option, value in options.items() if option not in {'meta', *META_OPTIONS}}
    if 'meta' in known:
        values = known | options
        moves = values['meta_moves']
        if moves not in META_MOVES:
            raise UserError(f"meta_moves='{moves}' must be one of {', '.join(META_MOVES)}")
        fields = {field: values[field] for field in META_OPTIONS if field != 'meta_moves'}
        meta = Meta(labels=moves != 'weights', weights=moves != 'labels', **fields)
        own['meta'] = meta if values['meta'] else None
    method = _function(name)(as_network(network), **own)
    if not isinstance(method, Method):
        raise UserError(f"method.name '{name}' returned {method!r}; it must return a Method")
    return method


def method_options(name: str) -> dict[str, Any]:
    """The options of a method and what they are where they are not given.

    Raises:
      UserError: an unknown name, or a file that cannot be used.
    """
    parameters = list(inspect.signature(_function(name)).parameters.values())[1:]
    named = [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
    options = {parameter.name: parameter.default for parameter in named}
    if unset := [option for option, default in options.items() if default is inspect.Parameter.empty]:
        raise UserError(f"method.name '{name}': give its option '{unset[0]}' a default")
    if 'meta' in options:
        options |= META_OPTIONS | {'meta': options['meta'] is not None}
    return options


def _function(name: str) -> Callable[..., Method]:
    if ':' in name:
        return load_method(name)
    if name not in METHODS:
        raise UserError(
            f"method.name '{name}' is unknown; choose one of {', '.join(METHODS)}, or FILE.py:FUNCTION"
        )
    return METHODS[name]
