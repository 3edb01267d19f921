"""Train MetaSemi, or another method, in the folder of a run.

python main.py --config=configs/digits.py --workdir=runs/digits
python main.py --config=configs/cifar10.py --config.method.name=fixmatch --workdir=runs/fixmatch
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from metasemi_jax.cli import run_command

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The experiment; --config.FIELD=VALUE changes one of its fields.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run, made if missing; by default runs/ and the names of config file and method.',
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
    train_and_evaluate(_CONFIG.value, _WORKDIR.value or f'runs/{_run_name()}')


def _run_name() -> str:
    """That of the config file, with the method's behind it unless it is MetaSemi."""
    file, _, method = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
    method = method or _CONFIG.value.method.name
    name = Path(file).stem
    return name if method == 'metasemi' else f'{name}_{method.rsplit(":", 1)[-1]}'


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent / 'configs' / 'digits.py')
