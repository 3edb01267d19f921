"""Every method, with and without the meta-gradient, at equal computation: a Markdown table.

    python -m benchmarks.compare --data=digits --num_labels=20 --workdir=runs/compare_digits_20
    python -m benchmarks.compare --data=FILE.npz --num_labels=100 --image_size=14 --workdir=runs/mnist_100
    python -m benchmarks.compare --data=digits --num_labels=20 --methods=metasemi,fixmatch+meta --workdir=...

The same network, batches, crops, strong view, optimizer and number of forward passes for all; what differs is
the method, its options as published, and with its cost the number of steps. Every run is a folder in
`--workdir` as `python main.py` makes it. A finished one is not trained again, so that the same command goes on
where it was, and several may share the work by `--methods`. The table has all that are finished.

FILE.npz has x and y, all labels known, and x_test and y_test, see docs/own_images.md; each seed draws its own
labeled images.
"""

import contextlib
import os
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError

_DATA = flags.DEFINE_string('data', 'digits', 'digits, digits_dev, or an .npz file.')
_LABELS = flags.DEFINE_integer('num_labels', 20, 'Labeled images in all.', lower_bound=1)
_SIZE = flags.DEFINE_integer('image_size', 0, 'Side that the images of a file are resized to; 0: their own.')
_METHODS = flags.DEFINE_list('methods', None, "Rows; by default all. 'NAME+meta' has the meta-gradient.")
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'Each draws labeled images, weights, batches.')
_PASSES = flags.DEFINE_integer('passes', 8000, 'Forward passes of 64 images that a run may cost.')
_RATIO = flags.DEFINE_integer('unlabeled_ratio', 1, 'Unlabeled images for each labeled one.', lower_bound=1)
_LR = flags.DEFINE_float('lr', 0.1, 'Highest learning rate.')
_SET = flags.DEFINE_list('set', [], "Options of the methods, as 'consistency_weight=10'.")
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the runs.', required=True)
BATCH_SIZE = 64
SHAPE_FOR_COST, CLASSES = (16, 16, 1), 10  # the count in forward passes hardly depends on them
# Weights of squared errors, published for runs of a million steps; chosen on held-out images, docs/results.md.
CONSISTENCY_WEIGHTS = {'temporal_ensembling': 10.0, 'mean_teacher': 10.0, 'mixmatch': 10.0}


class Variant(NamedTuple):
    """A row of the table."""

    label: str
    method: str
    options: dict[str, Any]


def variants() -> list[Variant]:
    """Every method, plain and with the meta-gradient.

    MetaSemi has it anyway, without it is mix-up alone; `metasemi_strong` are the two departures of
    configs/folder.py.
    """
    from metasemi_jax.methods import METHODS, method_options

    rows = []
    for name in METHODS:
        if name == 'metasemi':
            rows.append(Variant('mixup_only', name, {'meta': False}))
            rows.append(Variant('metasemi', name, {}))
            strong = {'second_view': 'strong', 'temperature': 0.5}
            rows.append(Variant('metasemi_strong', name, strong))
            continue
        rows.append(Variant(name, name, {}))
        if 'meta' in method_options(name):
            rows.append(Variant(f'{name}+meta', name, {'meta': True}))
    return rows


def make_config(variant: Variant, seed: int) -> Any:
    """The run of `variant` with the settings that all share."""
    from configs import default

    config = default.get_config(variant.method)
    config.seed = seed
    config.batch_size, config.unlabeled_ratio, config.ema_decay = BATCH_SIZE, _RATIO.value, 0.99
    config.data.num_labels = _LABELS.value
    if _DATA.value.endswith('.npz'):
        config.data.name, config.data.path = 'own_images', str(Path(_DATA.value).absolute())
        config.data.image_size, config.data.pad = _SIZE.value, 2
    else:
        config.data.name, config.data.pad = _DATA.value, 1
    config.data.strong = 'affine'
    config.model.name, config.model.dropout_rate = 'conv_small', 0.0
    if variant.method in CONSISTENCY_WEIGHTS:
        config.method.consistency_weight = CONSISTENCY_WEIGHTS[variant.method]
    for name, value in variant.options.items():
        config.method[name] = value
    for text in _SET.value:
        name, _, value = text.partition('=')
        config.method[name] = float(value)
    steps = _steps(variant)
    config.total_steps = steps
    if variant.method == 'metasemi':
        config.method.rampup_steps = steps // 10
    config.optimizer.lr, config.optimizer.weight_decay = _LR.value, 5e-4
    config.optimizer.schedule, config.optimizer.warmup_steps = 'cosine', steps // 20
    config.eval_every = config.checkpoint_every = steps
    return config


def _steps(variant: Variant) -> int:
    from benchmarks.forward_passes import forward_passes
    from metasemi_jax.models import create_model

    key = (variant.label, _RATIO.value)
    if key not in _costs:
        _costs[key] = forward_passes(
            variant.method,
            create_model('conv_small', CLASSES),
            SHAPE_FOR_COST,
            CLASSES,
            _RATIO.value,
            **variant.options,
        )
    return round(_PASSES.value / _costs[key])


_costs: dict[tuple[str, int], float] = {}


def main() -> None:
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.training.loop import train_and_evaluate
    from metasemi_jax.workdir import Workdir

    rows = variants()
    wanted = _METHODS.value or [row.label for row in rows]
    if unknown := sorted({*wanted} - {row.label for row in rows}):
        raise UserError(f"--methods: '{unknown[0]}' is none of {', '.join(row.label for row in rows)}")
    enable_compilation_cache()
    folder = Path(_WORKDIR.value)
    for row in rows:
        for seed in map(int, _SEEDS.value if row.label in wanted else ()):
            files = Workdir(folder / f'{row.label},seed={seed}')
            if files.read_results() is not None:
                continue
            files.path.mkdir(parents=True, exist_ok=True)
            with (files.path / 'log.txt').open('a') as log, contextlib.redirect_stdout(log):
                results = train_and_evaluate(make_config(row, seed), str(files.path))
            print(f'{files.path.name}: {results["ema_test_error_last"]:.2f}%', flush=True)
    print('\n' + table(folder, rows))


def table(folder: Path, rows: list[Variant]) -> str:
    """Test error of the averaged weights after the last step, mean ± standard deviation, and each seed."""
    from metasemi_jax.workdir import Workdir

    lines = ['| test error, % | steps | mean | each seed |', '|---|---|---|---|']
    for row in rows:
        found = {}
        for path in folder.glob(f'{row.label},seed=*'):
            results = Workdir(path).read_results()
            if results is not None:
                found[results['seed']] = results
        if not found:
            continue
        errors = [found[seed]['ema_test_error_last'] for seed in sorted(found)]
        deviation = f' ± {statistics.stdev(errors):.1f}' if len(errors) > 1 else ''
        mean = f'{statistics.mean(errors):.1f}{deviation}'
        steps = next(iter(found.values()))['steps']
        lines.append(f'| {row.label} | {steps} | {mean} | {" ".join(f"{error:.1f}" for error in errors)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    run_command(main, sys.argv)
