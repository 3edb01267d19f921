"""Whether a config fits a machine that is not here, and how long it would take there at best.

    metasemi plan --config=svhn --topology=v5e:2x2
    metasemi plan --config=imagenet --topology=h100:8 --json

The machine's own compiler compiles the step of the config, method and all; it needs no such device, and the
images need not be there. TPUs: v4, v5e, v5p, v6e (pip install '.[plan-tpu]'); GPUs: a100, h100, h200, b200
(pip install '.[plan-gpu]'). Compiling takes half a minute to eight.
"""

import json
import sys

from absl import flags

from metasemi_jax.cli import run_command
from metasemi_jax.command.config_file import CONFIGS
from metasemi_jax.command.flags import define_config
from metasemi_jax.errors import UserError
from metasemi_jax.plan.devices import check_compiler, prepare_environment, silent
from metasemi_jax.plan.machines import FORM, parse_topology


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    values = flags.FlagValues()
    define_config(values)
    flags.DEFINE_string('topology', None, f'The machine; {FORM}.', flag_values=values)
    flags.DEFINE_boolean('json', False, 'Print JSON.', flag_values=values)
    default = CONFIGS.resolve() / 'digits.py'
    run_command(lambda: _plan(values), argv, default_config=default, values=values)


def _plan(values: flags.FlagValues) -> None:
    if not values['topology'].value:
        raise UserError(f'--topology is missing; {FORM}')
    topology = parse_topology(values['topology'].value)
    check_compiler(topology)
    prepare_environment()
    # These import JAX, which looks at the environment.
    with silent():
        from metasemi_jax.plan.make import make_plan
        from metasemi_jax.plan.report import as_json, lines

    plan = make_plan(
        values['config'].value, topology, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if values['json'].value:
        print(json.dumps(as_json(plan), indent=2))
        return
    for line in lines(plan):
        print(line)


if __name__ == '__main__':
    main(sys.argv)
