"""Loads a user's method from a Python file outside the package."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.methods.method import Method


def load_method(name: str) -> Callable[..., Method]:
    """The function that 'FILE.py:FUNCTION' names: (network, **options) -> `Method`.

    Raises:
      UserError: no such file or function, or a file that fails.
    """
    file, function = name.rsplit(':', 1)
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"method.name '{name}': there is no file {path} (seen from {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(f'metasemi_jax_method_{path.stem}', path)
    if spec is None:
        raise UserError(f"method.name '{name}': {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    # It is Python, and may fail in any way.
    with as_user_error(Exception, lambda error: f"method.name '{name}': {path} fails ({error!r})"):
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise UserError(f"method.name '{name}': {path} has no function '{function}'")
    return getattr(module, function)
