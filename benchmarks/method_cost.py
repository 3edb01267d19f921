"""What a step of each method costs, in forward passes of a batch: a Markdown table.

    python -m benchmarks.method_cost
    python -m benchmarks.method_cost --methods=fixmatch,mean_teacher --model=wide_resnet --unlabeled_ratio=7

Counted by XLA in the compiled gradient of the loss, over its count for one evaluation forward pass of the B
labeled images, 32 × 32 pixels of 3 channels; without the augmentation and the optimizer. Nothing is trained.
The network matters little, and a small one compiles in seconds: in a deeper one the first layer, whose input
has no gradient, weighs less.
"""

import sys
from typing import Any

from absl import flags

from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError

_METHODS = flags.DEFINE_list('methods', None, 'By default all.')
_RATIO = flags.DEFINE_integer(
    'unlabeled_ratio', None, "Unlabeled images for each labeled one; by default each recipe's.", lower_bound=1
)
_MODEL = flags.DEFINE_string('model', 'conv_small', 'The network.')
SHAPE, NUM_CLASSES = (32, 32, 3), 10
COLUMNS = {
    'step': {},
    'with meta at θ': {'meta': True},
    'with meta at θ̃': {'meta': True, 'at_inner_step': True},
}


def main() -> None:
    from configs.wide_resnet import SEVEN_UNLABELED
    from metasemi_jax.methods import METHODS
    from metasemi_jax.models import create_model

    names = _METHODS.value or list(METHODS)
    if unknown := sorted({*names} - {*METHODS}):
        raise UserError(f"--methods: '{unknown[0]}' is none of {', '.join(METHODS)}")
    model = create_model(_MODEL.value, NUM_CLASSES)
    print(f'{_MODEL.value}, forward passes of B images\n')
    print(
        f'| method | unlabeled images | BatchNorm | {" | ".join(COLUMNS)} |\n|{"---|" * (3 + len(COLUMNS))}'
    )
    for name in names:
        ratio = _RATIO.value or (7 if name in SEVEN_UNLABELED else 1)
        for convention, cells in _rows(name, model, ratio):
            print(f'| {name} | {ratio}·B | {convention} | {" | ".join(cells)} |', flush=True)


def _rows(name: str, model: Any, ratio: int) -> list[tuple[str, list[str]]]:
    """The convention of BatchNorm, where there is a choice, and the numbers in `COLUMNS`."""
    from benchmarks.forward_passes import forward_passes
    from metasemi_jax.methods import method_options

    known, rows = method_options(name), []
    for convention in ('joint', 'labeled') if 'batch_norm' in known else (None,):
        cells = []
        for options in COLUMNS.values():
            if 'meta' in known:
                options = {'meta': False} | options  # metasemi's is on
            elif options:
                cells.append('–')
                continue
            if convention:
                options = options | {'batch_norm': convention}
            cells.append(f'{forward_passes(name, model, SHAPE, NUM_CLASSES, ratio, **options):.1f}')
        rows.append((convention or '–', cells))
    return rows


if __name__ == '__main__':
    run_command(main, sys.argv)
