"""Train MetaSemi: `python main.py --config=configs/digits.py --workdir=runs/digits`."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from metasemi_jax.cli import run_command

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The experiment; --config.FIELD=VALUE changes one of its fields.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, "Folder of the run, made if missing; by default runs/ and the config file's name."
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, for several processes outside TPU pods and SLURM.'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes there are in all.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this one is, from 0.')


def main() -> None:
    # JAX takes seconds to load, and a mistyped flag should not have to wait for it.
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.distributed.multi_host import join_processes
    from metasemi_jax.training.loop import train_and_evaluate

    join_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    enable_compilation_cache()
    config_name = Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
    train_and_evaluate(_CONFIG.value, _WORKDIR.value or f'runs/{config_name}', log_images=True)


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent / 'configs' / 'digits.py')
