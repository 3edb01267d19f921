"""Small runs on the real digits, in this process or as a user types them."""

import contextlib
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from configs import digits
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.training.checkpoint import closing_checkpoints, open_checkpoints, save_checkpoint
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import describe_run
from metasemi_jax.workdir import Workdir

ROOT = Path(__file__).parents[2]
TINY = {
    'total_steps': 12,
    'batch_size': 8,
    'log_every': 2,
    'eval_every': 4,
    'checkpoint_every': 4,
    'model.name': 'mlp',  # compiles soonest; what depends on convolutions names conv_small
    'model.width': 2,
    'optimizer.warmup_steps': 2,
    'optimizer.milestones': (8, 10),
    'method.rampup_steps': 4,
}


def tiny_config(**overrides):
    """The digits experiment, small enough for a test; `data__num_labels=20` sets `data.num_labels`."""
    config = digits.get_config()
    config.update_from_flattened_dict(TINY | {name.replace('__', '.'): v for name, v in overrides.items()})
    return config


def tiny_flags(**overrides):
    fields = TINY | {name.replace('__', '.'): value for name, value in overrides.items()}
    return [f'--config.{name}={value}' for name, value in fields.items()]


def main_command(*flags):
    return [sys.executable, str(ROOT / 'main.py'), *map(str, flags)]


def run_main(*flags, **kwargs):
    return subprocess.run(main_command(*flags), capture_output=True, text=True, timeout=120, **kwargs)


def run_here(*flags, cwd='.'):
    """`run_main` in this process, which saves two seconds of imports: what it prints and how it ends."""
    out, err, given = io.StringIO(), io.StringIO(), sys.argv
    code = 0
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main_of('main')(['main.py', *map(str, flags)])
    except SystemExit as exit_:
        code = exit_.code
    finally:
        sys.argv = given
    if isinstance(code, str):
        err.write(f'{code}\n')
        code = 1
    return subprocess.CompletedProcess(flags, code or 0, out.getvalue(), err.getvalue())


def main_of(command):
    """`main` of 'main', 'predict', 'sweep', ..., as the command's process calls it."""
    if command == 'main':
        return importlib.import_module('main').main
    try:
        return importlib.import_module(f'metasemi_jax.{command}.__main__').main
    except ModuleNotFoundError:
        return importlib.import_module(f'metasemi_jax.{command}').main


def make_run(workdir, config, errors=None):
    """A workdir as training leaves it, in a second: drawn weights, others in each checkpoint.

    `errors`: step -> the error that it was saved with, or None.
    """
    experiment = build_experiment(config, make_mesh())
    config = experiment.config
    files = Workdir(workdir)
    with files.lock():
        describe_run(files, experiment)
    record = {'history': [], 'seconds': 0.0, 'split_sha256': experiment.split_sha256}
    record |= {'data_sha256': experiment.data_sha256}
    with closing_checkpoints(open_checkpoints(files.checkpoints)) as manager:
        for step, error in (errors or {config.total_steps: None}).items():
            state = draw_state(experiment.state, step)
            save_checkpoint(manager, state, record, step=step, error=error)
    return files.path


def draw_state(state, step):
    """Every weight and statistic normal around what it was, its averages too; variances stay positive."""
    rng = np.random.default_rng(step)

    def draw(path, leaf):
        noise = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return leaf + (np.abs(noise) if 'var' in jax.tree_util.keystr(path) else noise)

    drawn = {
        name: jax.tree_util.tree_map_with_path(draw, getattr(state, name))
        for name in ('params', 'batch_stats', 'ema')
    }
    return state.replace(step=jnp.asarray(step, jnp.int32), **drawn)


def read_state(workdir, step=None):
    """Every array of a run's checkpoint, by path; the latest unless `step` is given."""
    with ocp.CheckpointManager(Path(workdir).absolute() / 'checkpoints') as manager:
        step = manager.latest_step() if step is None else step
        restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    leaves = jax.tree_util.tree_leaves_with_path(restored['state'])
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def read_log(workdir, *, without=('images_per_second',)):
    lines = [json.loads(line) for line in (Path(workdir) / 'metrics.jsonl').read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in without} for line in lines]


def contents(folder):
    """Every file below `folder` with its bytes, to show that nothing was written."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob('*')) if path.is_file()}
