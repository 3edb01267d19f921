"""Train MetaSemi: `python main.py --config=configs/digits.py --workdir=runs/digits`."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from metasemi_jax.command import run_command

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The experiment; --config.FIELD=VALUE changes one of its fields.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, "Folder of the run, made if missing; by default runs/ and the config file's name."
)


def main() -> None:
    # JAX takes seconds to load, and a mistyped flag should not have to wait for it.
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.train import train_and_evaluate

    enable_compilation_cache()
    config_name = Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
    train_and_evaluate(_CONFIG.value, _WORKDIR.value or f'runs/{config_name}')


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent / 'configs' / 'digits.py')
