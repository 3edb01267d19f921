"""Small runs on the real digits, in this process or as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from configs import digits

ROOT = Path(__file__).parent.parent
TINY = {
    'total_steps': 12,
    'batch_size': 8,
    'log_every': 2,
    'eval_every': 4,
    'checkpoint_every': 4,
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
