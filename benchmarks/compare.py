"""Every method, with and without the meta-gradient, at equal computation: a Markdown table.

    python -m benchmarks.compare --data=digits --num_labels=20 --workdir=runs/digits_20
    python -m benchmarks.compare --data=FILE.npz --num_labels=100 --image_size=14 --workdir=runs/mnist_100
    python -m benchmarks.compare --methods=metasemi,fixmatch+meta --num_labels=20 --workdir=runs/digits_20

All have the same network, batches, crops, strong view, optimizer and number of forward passes. The method
differs, with the options that it was published with, and the number of steps, which its cost decides.

Every run is a folder below `--workdir`, as `python main.py` makes it. A finished run is not trained again, so
the same command goes on where it was. Processes with other `--methods` may share the work. The table has all
runs that are finished.

FILE.npz has x and y, every label known, and x_test and y_test, see docs/own_images.md. Each seed draws its
own labeled images.
"""

import contextlib
import functools
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from benchmarks.forward_passes import forward_passes
from configs import default
from metasemi_jax.cli import run_command
from metasemi_jax.compilation_cache import enable_compilation_cache
from metasemi_jax.config.checks import check_config
from metasemi_jax.errors import DivergedError, UserError
from metasemi_jax.methods import METHODS, method_options
from metasemi_jax.models import create_model
from metasemi_jax.report.runs import spread
from metasemi_jax.sweep.grid import parse_seeds
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.workdir import Workdir

_DATA = flags.DEFINE_string('data', 'digits', 'digits, digits_dev, or an .npz file.')
_LABELS = flags.DEFINE_integer('num_labels', 20, 'Labeled images in all.', lower_bound=1)
_SIZE = flags.DEFINE_integer('image_size', 0, 'Side that the images of a file are resized to; 0: their own.')
_METHODS = flags.DEFINE_list('methods', None, "Rows, by default all; 'NAME+meta' has the meta-gradient.")
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'Each draws labeled images, weights, batches.')
_PASSES = flags.DEFINE_integer(
    'passes', 5000, 'Forward passes of 64 images that a run may cost.', lower_bound=1000
)
_RATIO = flags.DEFINE_integer('unlabeled_ratio', 1, 'Unlabeled images for each labeled one.', lower_bound=1)
_LR = flags.DEFINE_float('lr', 0.1, 'Highest learning rate.')
_WEIGHT = flags.DEFINE_float('consistency_weight', None, 'Of every method; by default its own.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the runs.', required=True)

BATCH_SIZE = 64
FORM, CLASSES = (16, 16, 1), 10  # for the count of FLOPs; in forward passes it hardly depends on them
# Where the published values, meant for runs of up to a million steps, fail in short ones. Chosen on held-out
# images, see docs/results.md.
CONSISTENCY_WEIGHTS = {'temporal_ensembling': 10.0, 'mean_teacher': 10.0, 'mixmatch': 10.0}  # 30, 50, 75
THRESHOLD_META_LR = 0.01  # 1


class Row(NamedTuple):
    """A row of the table."""

    label: str
    method: str
    options: dict[str, Any]


class Shared(NamedTuple):
    """Settings that all rows share."""

    data: str
    num_labels: int
    image_size: int = 0
    passes: int = 5000
    unlabeled_ratio: int = 1
    lr: float = 0.1
    consistency_weight: float | None = None


def rows() -> list[Row]:
    """Every method, plain and with the meta-gradient.

    MetaSemi without it is mix-up alone. `metasemi_strong` has the two departures of configs/folder.py. The
    methods that choose images by a threshold have the cheaper `batch_norm`, which serves them better too.
    """
    found = []
    for name in METHODS:
        options = method_options(name)
        if name == 'metasemi':
            found.append(Row('mixup_only', name, {'meta': False}))
            found.append(Row('metasemi', name, {}))
            found.append(Row('metasemi_strong', name, {'second_view': 'strong', 'temperature': 0.5}))
            continue
        plain, meta = {}, {'meta': True}
        if 'batch_norm' in options:
            plain = {'batch_norm': 'labeled'}
            meta |= plain | {'meta_lr': THRESHOLD_META_LR}
        found.append(Row(name, name, plain))
        if 'meta' in options:
            found.append(Row(f'{name}+meta', name, meta))
    return found


def make_config(row: Row, shared: Shared, seed: int) -> Any:
    """The config of one run."""
    config = default.get_config(row.method)
    config.seed = seed
    config.batch_size, config.unlabeled_ratio = BATCH_SIZE, shared.unlabeled_ratio
    config.ema_decay = 0.99
    config.data.num_labels = shared.num_labels
    if shared.data.endswith('.npz'):
        config.data.name, config.data.path = 'own_images', str(Path(shared.data).absolute())
        config.data.image_size, config.data.pad = shared.image_size, 2
    else:
        config.data.name, config.data.pad = shared.data, 1
    config.data.strong = 'affine'
    config.model.name, config.model.dropout_rate = 'conv_small', 0.0
    weight = shared.consistency_weight
    if weight is None:
        weight = CONSISTENCY_WEIGHTS.get(row.method)
    if weight is not None and 'consistency_weight' in method_options(row.method):
        config.method.consistency_weight = weight
    for name, value in row.options.items():
        config.method[name] = value

    steps = round(shared.passes / passes_of_step(row, shared.unlabeled_ratio))
    config.total_steps = config.eval_every = config.checkpoint_every = steps
    if row.method == 'metasemi':
        config.method.rampup_steps = steps // 10
    config.optimizer.lr, config.optimizer.weight_decay = shared.lr, 5e-4
    config.optimizer.schedule, config.optimizer.warmup_steps = 'cosine', steps // 20
    return config


def passes_of_step(row: Row, unlabeled_ratio: int) -> float:
    """What a step costs, in forward passes of the labeled images."""
    return _passes_of_step(row.method, unlabeled_ratio, tuple(sorted(row.options.items())))


@functools.cache
def _passes_of_step(method: str, unlabeled_ratio: int, options: tuple[tuple[str, Any], ...]) -> float:
    model = create_model('conv_small', CLASSES)
    return forward_passes(method, model, FORM, CLASSES, unlabeled_ratio, **dict(options))


def main() -> None:
    known = rows()
    wanted = _METHODS.value or [row.label for row in known]
    if unknown := sorted({*wanted} - {row.label for row in known}):
        raise UserError(f"--methods: '{unknown[0]}' is none of {', '.join(row.label for row in known)}")
    shared = Shared(
        _DATA.value,
        _LABELS.value,
        _SIZE.value,
        _PASSES.value,
        _RATIO.value,
        _LR.value,
        _WEIGHT.value,
    )
    seeds = parse_seeds(_SEEDS.value)
    check_data(shared.data)
    enable_compilation_cache()
    folder = Path(_WORKDIR.value)
    for row in known:
        for seed in seeds if row.label in wanted else ():
            _run(make_config(row, shared, seed), Workdir(folder / f'{row.label},seed={seed}'))
    print(f'\n{table(folder, known)}')


def check_data(data: str) -> None:
    """Refuse what has no test images to compare on.

    Raises:
      UserError: a file that is missing, is no .npz file or lacks an array; or an unknown name.
    """
    if not data.endswith('.npz'):
        if data not in ('digits', 'digits_dev'):
            raise UserError(f'--data={data} is neither digits, digits_dev nor an .npz file')
        return
    try:
        with np.load(data) as arrays:
            missing = sorted({'x', 'y', 'x_test', 'y_test'} - {*arrays})
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f'--data={data} cannot be read ({error})') from error
    if missing:
        raise UserError(f'--data={data} lacks {", ".join(missing)}; see docs/own_images.md')


def _run(config: Any, files: Workdir) -> None:
    """Train one run, unless it is finished; one that diverges does not stop the others."""
    check_config(config)
    files.check(config)
    if files.read_results() is not None:
        return
    files.path.mkdir(parents=True, exist_ok=True)
    try:
        with (files.path / 'log.txt').open('a') as log, contextlib.redirect_stdout(log):
            results = train_and_evaluate(config, str(files.path))
    except DivergedError as error:
        print(f'{files.path.name}: {error}', flush=True)
        return
    print(f'{files.path.name}: {results["ema_test_error_last"]:.2f}%', flush=True)


def table(folder: Path, known: list[Row]) -> str:
    """Test error of the averaged weights after the last step: mean ± standard deviation, and each seed."""
    lines = ['| test error, % | steps | mean | each seed |', '|---|---|---|---|']
    for row in known:
        results = [Workdir(path).read_results() for path in folder.glob(f'{row.label},seed=*')]
        finished = sorted((found for found in results if found), key=lambda found: found['seed'])
        if not finished:
            continue
        errors = [found['ema_test_error_last'] for found in finished]
        mean, std = spread(errors)
        cell = f'{mean:.1f}' if std is None else f'{mean:.1f} ± {std:.1f}'
        each = ' '.join(f'{error:.1f}' for error in errors)
        lines.append(f'| {row.label} | {finished[0]["steps"]} | {cell} | {each} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    run_command(main, sys.argv)
