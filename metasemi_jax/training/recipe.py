"""What a config with `recipe='auto'` leaves open (None), chosen from its images and its device.

A rule is a function (facts, fields) -> value. The rules run in the order of `RULES`, each for a field that is
still None, and see what was given or chosen before: a number of steps from the command line moves the
schedule with it. Why each rule is as it is, and on which images it was tried: docs/recipe.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from metasemi_jax.methods import method_options

LARGEST = {False: 32, True: 64}  # side of the images, by whether there is an accelerator
# On a CPU: multiply-adds of a forward pass, of all images of all steps together, for each core.
CPU_WORK = 4.5e12
CPU_STEPS = (1500, 6000)
ACCELERATOR_STEPS = 20_000
# What one step of a method costs, in forward passes of a labeled and of an unlabeled image. docs/performance.md
PASSES = 12


class Facts(NamedTuple):
    """What is known of a run before its first step."""

    image_shape: tuple[int, int, int]  # [H, W, C]
    num_classes: int
    num_labeled: int
    num_images: int  # labeled and unlabeled ones to train on
    black_border: bool  # whether most pixels at the images' edge are black
    accelerator: bool  # whether the network runs on something else than a CPU
    cores: int = 2  # of the CPU


Fields = Mapping[str, Any]
Rule = Callable[[Facts, Fields], Any]


def choose(facts: Facts, fields: Fields) -> dict[str, Any]:
    """The value of each field of `RULES` that is None in `fields`, the flat fields of a config.

    A value may still be None, which leaves it to the network or to the method.
    """
    fields, chosen = dict(fields), {}
    for name, rule in RULES.items():
        if fields[name] is None:
            chosen[name] = fields[name] = rule(facts, fields)
    return chosen


def image_size(sizes: Sequence[tuple[int, int]], *, one_size: bool, accelerator: bool) -> int:
    """`data.image_size` for images of these [H, W]; 0 leaves them as they are.

    Files are resized to the median of their shorter sides, rounded down to a multiple of 4 (two pools halve
    it), at least 8, at most `LARGEST`. Images of one size keep it where it has no more pixels than a quarter
    above the largest square.
    """
    largest = LARGEST[accelerator]
    if not sizes:
        return largest
    if one_size and math.prod(sizes[0]) <= 1.25 * largest**2:
        return 0
    median = sorted(map(min, sizes))[len(sizes) // 2]
    return max(8, min(largest, median // 4 * 4))


def _model(facts: Facts, fields: Fields) -> str:
    if not facts.accelerator:
        return 'conv_small'
    return 'conv_large' if max(facts.image_shape[:2]) <= 48 else 'resnet18'


def _width(facts: Facts, fields: Fields) -> int | None:
    if fields['model.name'] != 'conv_small':
        return None
    return 32 if max(facts.image_shape[:2]) < 16 else 16


def _dropout(facts: Facts, fields: Fields) -> float | None:
    # With dropout the running statistics are not those of the undropped images that the targets come from.
    return 0.0 if fields['model.name'] in ('conv_small', 'conv_large', 'wide_resnet') else None


def _batch_size(facts: Facts, fields: Fields) -> int:
    return 64


def _total_steps(facts: Facts, fields: Fields) -> int:
    if facts.accelerator:
        return ACCELERATOR_STEPS
    step = PASSES * fields['batch_size'] * (1 + fields['unlabeled_ratio']) / 2 * _multiply_adds(facts, fields)
    least, most = CPU_STEPS
    return _round(min(most, max(least, min(facts.cores, 4) * CPU_WORK / step)))


def _multiply_adds(facts: Facts, fields: Fields) -> float:
    """Of conv_small's forward pass of one image."""
    height, width, channels = facts.image_shape
    w = fields['model.width'] or 16
    full, half, quarter = w * (channels + w), 6 * w * w, 8 * w * w
    return 9 * height * width * (full + half / 4 + quarter / 16)


def _round(steps: float) -> int:
    """To two digits."""
    unit = 10 ** (math.floor(math.log10(steps)) - 1)
    return int(steps // unit * unit)


def _share(share: float) -> Rule:
    return lambda facts, fields: max(1, round(share * fields['total_steps']))


def _rampup(facts: Facts, fields: Fields) -> int | None:
    return _share(0.2)(facts, fields) if 'rampup_steps' in method_options(fields['method.name']) else None


def _ema_decay(facts: Facts, fields: Fields) -> float:
    """The averages reach over a hundredth of the steps, and at most over a thousand."""
    return round(1 - 1 / min(1000, max(2, fields['total_steps'] / 100)), 4)


def _pad(facts: Facts, fields: Fields) -> int:
    return max(1, min(facts.image_shape[:2]) // 8)


def _pad_mode(facts: Facts, fields: Fields) -> str:
    return 'black' if facts.black_border else 'reflect'


RULES: dict[str, Rule] = {
    'model.name': _model,
    'model.width': _width,
    'model.dropout_rate': _dropout,
    'batch_size': _batch_size,
    'total_steps': _total_steps,
    'optimizer.warmup_steps': _share(0.05),
    'method.rampup_steps': _rampup,
    'ema_decay': _ema_decay,
    'eval_every': _share(0.05),
    'checkpoint_every': _share(0.25),
    'data.pad': _pad,
    'data.pad_mode': _pad_mode,
}


def sentence(chosen: Mapping[str, Any]) -> str:
    """One line for people: what was chosen, and how to change it."""
    values = ', '.join(f'{name}={value}' for name, value in chosen.items() if value is not None)
    return f'chosen from the images and the device: {values}; --config.FIELD=VALUE changes one'
