"""JAX's persistent compilation cache: a second start of the same run compiles nothing."""

import os
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Cache programs under ~/.cache/metasemi_jax, unless JAX_COMPILATION_CACHE_DIR names a folder."""
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        jax.config.update('jax_compilation_cache_dir', str(home / 'metasemi_jax' / 'xla'))
    # Evaluation and initialisation compile in less than JAX's default of 1 s, and are worth keeping too.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
