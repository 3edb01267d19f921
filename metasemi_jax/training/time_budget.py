"""`time_budget`: how many steps a run has room for, and its schedule scaled to them."""

import math
from typing import Any, NamedTuple

from metasemi_jax.config.checks import check_fields
from metasemi_jax.config.fields import BUDGETED
from metasemi_jax.config.form import flatten, with_fields
from metasemi_jax.errors import UserError
from metasemi_jax.files import write_json
from metasemi_jax.methods import method_options
from metasemi_jax.progress import duration
from metasemi_jax.workdir import Workdir
from metasemi_jax.workdir.reading import RESTORE, naming, read_json

LEAST_STEPS = 10
FOR_EVALUATIONS, FOR_CHECKPOINTS = 0.2, 0.1  # shares of the time that they may take
SPARED = 0.03  # share of the time kept in reserve: no machine keeps its pace


class Costs(NamedTuple):
    """Seconds on this machine."""

    step: float
    evaluation: float
    checkpoint: float
    compilation: float  # of the training step


def plan(recipe: dict[str, Any], costs: Costs, seconds: float) -> dict[str, Any]:
    """The fields `BUDGETED` of a run of `seconds`, from those of the recipe; a pure function.

    Milestones, warm-up and ramp-up keep their share of total_steps. So does the number of evaluations and
    checkpoints, unless they would take too much of the time.

    Args:
      recipe: the fields `BUDGETED` of the config; method.rampup_steps may be None.
      costs: measured.
      seconds: time left from now on, compilation of the final step included.

    Raises:
      UserError: less than `LEAST_STEPS` steps are possible.
    """
    left = (seconds - costs.compilation) * (1 - SPARED)
    # Every evaluation may turn out the best so far, and is saved then.
    each = costs.evaluation + costs.checkpoint
    evaluations = _count(recipe['total_steps'] / recipe['eval_every'], each, FOR_EVALUATIONS * left)
    checkpoints = _count(
        recipe['total_steps'] / recipe['checkpoint_every'], costs.checkpoint, FOR_CHECKPOINTS * left
    )
    steps = math.floor((left - evaluations * each - checkpoints * costs.checkpoint) / costs.step)
    if steps < LEAST_STEPS:
        raise UserError(
            f'time_budget leaves {duration(max(left, 0))} after loading and compiling, in which not '
            f'even {LEAST_STEPS} steps and an evaluation are done; give more time'
        )
    steps = min(steps, 2**31 - 1)
    scale = steps / recipe['total_steps']

    def scaled(count: int | None) -> int | None:
        return None if count is None else min(round(count * scale), 2**31 - 1)

    return {
        'total_steps': steps,
        # Cosines refuse a warm-up as long as the run.
        'optimizer.warmup_steps': min(scaled(recipe['optimizer.warmup_steps']), steps - 1),
        'optimizer.milestones': [scaled(milestone) for milestone in recipe['optimizer.milestones']],
        'method.rampup_steps': scaled(recipe['method.rampup_steps']),
        'log_every': max(1, min(recipe['log_every'], scaled(recipe['log_every']))),
        'eval_every': math.ceil(steps / evaluations),
        'checkpoint_every': math.ceil(steps / checkpoints),
    }


def _count(wanted: float, each: float, seconds: float) -> int:
    affordable = seconds / each if each > 0 else math.inf
    return max(1, math.floor(min(math.ceil(wanted), affordable)))


def recipe_of(config: Any) -> dict[str, Any]:
    """The fields `BUDGETED` of `config`; a ramp-up that is left to the method has the method's own steps."""
    fields = flatten(config)
    recipe = {name: fields[name] for name in BUDGETED}
    if recipe['method.rampup_steps'] is None:
        recipe['method.rampup_steps'] = method_options(config.method.name).get('rampup_steps')
    return recipe


def begun_plan(files: Workdir, config: Any) -> dict[str, Any] | None:
    """The fields `BUDGETED` that the run in `files` began with.

    None in a new run and in one without a budget. None too in a run that has trained nothing: its settings,
    and so its costs, may be other ones now.

    Raises:
      UserError: the run began with another budget or recipe, or its file is damaged.
    """
    if not config.time_budget or not files.time_budget.exists() or not files.is_trained():
        return None
    begun = _read(files)
    here = {'time_budget': config.time_budget} | recipe_of(config)
    there = {'time_budget': begun['time_budget']} | begun['recipe']
    # None: left open; and the run's own number is as good as the recipe's.
    differing = [
        f'{name}: {there.get(name)} there, {value} here'
        for name, value in here.items()
        if value not in (there.get(name), begun['run'].get(name), None)
    ]
    if differing:
        raise UserError(
            f'workdir={files.path} holds a run with another config ({"; ".join(differing)}); '
            'name another folder, or use the same settings to continue that run'
        )
    return begun['run']


def keep_plan(files: Workdir, config: Any, run: dict[str, Any], costs: Costs) -> None:
    """Write what `begun_plan` reads; `config` is the recipe's."""
    content = {'time_budget': config.time_budget, 'recipe': recipe_of(config), 'run': run}
    write_json(files.time_budget, content | {'seconds': costs._asdict()})


def with_plan(config: Any, run: dict[str, Any]) -> Any:
    """A copy of `config` with the fields of `run` in their place."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in run.items()}
    return with_fields(config, values)


def _read(files: Workdir) -> dict[str, Any]:
    begun = read_json(files.time_budget)
    with naming(files.time_budget, RESTORE):
        if not isinstance(begun.get('time_budget'), str):
            raise UserError(f'time_budget={begun.get("time_budget")!r} must be a time')
        for part in ('recipe', 'run'):
            fields = begun.get(part)
            if not isinstance(fields, dict) or fields.keys() != {*BUDGETED}:
                raise UserError(f'{part} must hold {", ".join(BUDGETED)}')
            check_fields({name: value for name, value in fields.items() if value is not None})
        if None in (begun['run'][name] for name in BUDGETED if name != 'method.rampup_steps'):
            raise UserError('run has a field without a value')
    return begun
