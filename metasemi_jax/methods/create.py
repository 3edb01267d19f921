"""From a name and options to a method."""

import inspect
from collections.abc import Callable
from typing import Any

from metasemi_jax.errors import UserError
from metasemi_jax.methods.file_method import load_method
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Method
from metasemi_jax.methods.network import as_network
from metasemi_jax.methods.registry import METHODS

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
        `meta_lr`, `estimator`, `epsilon`, `at_inner_step` and `inner_lr` of `Meta`.

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
    function, network = _function(name), as_network(network)
    try:
        method = function(network, **own)
    except Exception as error:  # a user's function may fail in any way
        if name in METHODS:
            raise
        raise UserError(f"method.name '{name}': the function fails ({error!r})") from error
    if not isinstance(method, Method):
        raise UserError(f"method.name '{name}' returned {method!r}; it must return a Method")
    return method


def method_options(name: str) -> dict[str, Any]:
    """The options of a method, with their defaults.

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
