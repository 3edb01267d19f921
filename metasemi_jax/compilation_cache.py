"""JAX's persistent compilation cache: a second start of the same run compiles nothing."""

import sys
from pathlib import Path

import jax

from metasemi_jax.errors import UserError
from metasemi_jax.files import check_writable, user_cache
from metasemi_jax.progress import say


def enable_compilation_cache() -> None:
    """Cache programs under ~/.cache/metasemi_jax, unless JAX_COMPILATION_CACHE_DIR names a folder."""
    folder = Path(jax.config.jax_compilation_cache_dir or user_cache('xla'))
    try:
        check_writable(folder, 'no compilation cache', 'every start compiles')
    except UserError as error:
        say(str(error), sys.stderr)
        jax.config.update('jax_enable_compilation_cache', False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update('jax_compilation_cache_dir', str(folder))
    # Every program, not only what takes JAX's default of a second: a start compiles dozens of small ones.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
