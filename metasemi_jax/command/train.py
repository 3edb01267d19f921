"""Train MetaSemi, or another method, in the folder of a run.

metasemi train --config=digits --workdir=runs/digits
metasemi train --config=cifar10 --config.method.name=fixmatch --workdir=runs/fixmatch

`python main.py` is the same from a copy of the repository.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from metasemi_jax.cli import run_command
from metasemi_jax.command.config_file import CONFIGS
from metasemi_jax.command.flags import define_config, define_workdir

DEFAULT_CONFIG = CONFIGS.resolve() / 'digits.py'


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    values = flags.FlagValues()
    define_config(values)
    define_workdir(
        values,
        'Folder of the run, made if missing; by default runs/ and the names of config file and method.',
    )
    flags.DEFINE_string(
        'coordinator',
        None,
        'HOST:PORT of process 0, for several processes outside TPU pods and SLURM.',
        flag_values=values,
    )
    flags.DEFINE_integer('num_processes', None, 'How many processes there are in all.', flag_values=values)
    flags.DEFINE_integer('process_id', None, 'Which of them this one is, from 0.', flag_values=values)
    run_command(lambda: _train(values), argv, default_config=DEFAULT_CONFIG, values=values)


def _train(values: flags.FlagValues) -> None:
    # JAX takes seconds to load, and a mistyped flag should not have to wait for it.
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.distributed.multi_host import join_processes
    from metasemi_jax.training.loop import train_and_evaluate

    join_processes(values['coordinator'].value, values['num_processes'].value, values['process_id'].value)
    enable_compilation_cache()
    workdir = values['workdir'].value or f'runs/{_run_name(values)}'
    train_and_evaluate(values['config'].value, workdir, log_images=True)


def _run_name(values: flags.FlagValues) -> str:
    """Name of the config file, and of the method unless it is MetaSemi."""
    file, _, method = config_flags.get_config_filename(values['config']).partition(':')
    method = values['config'].value.method.name if 'method' in values['config'].value else method
    name = Path(file).stem
    return name if method in (None, '', 'metasemi') else f'{name}_{method.rsplit(":", 1)[-1]}'


if __name__ == '__main__':
    main(sys.argv)
