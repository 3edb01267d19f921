"""Values for the fields that a config with `recipe='auto'` leaves open (None).

A rule is a function (facts, fields) -> value. Rules run in the order of `RULES`, each for a field that is
still None, and see the fields that were given or chosen before: a given number of steps moves the schedule.
docs/recipe.md gives the reason for each rule and the images on which it was tried.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from metasemi_jax.config.fields import BUDGETED
from metasemi_jax.methods import method_options
from metasemi_jax.models import conv_large
from metasemi_jax.models.conv_small import ConvSmall
from metasemi_jax.models.mlp import MLP
from metasemi_jax.pretrained.weights_file import is_weights_file

LARGEST = {False: 32, True: 64}  # pixels of a side; key: whether there is an accelerator
BATCH_SIZE = 64
# Multiply-adds of a run's forward passes for each core; two cores take four to five minutes.
CPU_WORK = 4.3e12
CORES = 4  # a network as small as these gains nothing from more
CPU_STEPS = (500, 2000)  # fewest; and enough, if each image has been drawn EPOCHS times by then
EPOCHS = 100
ACCELERATOR_STEPS = 20_000
METHOD, FEATURES_METHOD = 'flexmatch', 'metasemi'
# Cost of a step in forward passes of the labeled batch; docs/methods.md has the table of all methods.
PASSES = {'metasemi': 12, 'mixmatch': 11, 'supervised': 3, 'vat': 12}
OTHER_PASSES = 7
# Options whose published value the recipe replaces (docs/recipe.md).
OPTIONS = {'metasemi': {'second_view': 'strong', 'temperature': 0.5}}
OTHER_OPTIONS = {'batch_norm': 'labeled'}  # for every other method that has this option
# For runs from published weights. Sides (least, most) and batch size; key: whether there is an accelerator.
PUBLISHED_SIDES = {False: (64, 64), True: (64, 224)}
PUBLISHED_BATCH_SIZE = {False: 16, True: 64}
PUBLISHED_CPU_STEPS = (200, 1000)
PUBLISHED_ACCELERATOR_STEPS = 5000
PUBLISHED_LR, LR = 0.01, 0.1
# Multiply-adds of a forward pass at 224×224 pixels, scaled up where small layers slow a CPU down.
PUBLISHED_WORK = {
    'efficientnet_lite0': 1.0e9,
    'resnet18': 2.9e9,
    'resnet50': 7.0e9,
    'vit_s16': 4.6e9,
    'vit_b16': 18e9,
    'dinov2_s14': 6e9,
    'dinov2_s14_registers': 6e9,
    'dinov2_b14': 24e9,
    'dinov2_b14_registers': 24e9,
    'dinov3_s16': 4.6e9,
    'dinov3_b16': 18e9,
}
UNDROPPED = ('conv_small', 'conv_large', 'mlp', 'wide_resnet')  # networks whose dropout is switched off


class Facts(NamedTuple):
    """Properties of the data and the device that rules may use."""

    image_shape: tuple[int, ...]  # [H, W, C]; [D] of features
    num_images: int  # training images, labeled and unlabeled
    black_border: bool  # whether most pixels at the images' edge are black
    accelerator: bool  # whether the step runs on a GPU or TPU
    cores: int = 2  # CPU cores that the process may use


Fields = Mapping[str, Any]
Rule = Callable[[Facts, Fields], Any]


def choose(facts: Facts, fields: Fields) -> dict[str, Any]:
    """A value for each field of `RULES` that is None in `fields`, the flat fields of a config.

    The chosen value may be None again: the network or the method then uses its own default.
    """
    fields, chosen = dict(fields), {}
    for name, rule in RULES.items():
        if fields[name] is None:
            chosen[name] = fields[name] = rule(facts, fields)
    return chosen


def published_image_size(sizes: Sequence[tuple[int, int]], *, patch: int | None, accelerator: bool) -> int:
    """`data.image_size` for published weights, which were trained on larger images than `image_size` chooses.

    The size is the median of the shorter sides, clipped to `PUBLISHED_SIDES` (small images are enlarged) and
    rounded down to a multiple of 32, or of a vision transformer's patch.
    """
    least, most = PUBLISHED_SIDES[accelerator]
    median = sorted(map(min, sizes))[len(sizes) // 2] if sizes else most
    return max(least, min(most, median)) // (patch or 32) * (patch or 32)


def image_size(sizes: Sequence[tuple[int, int]], *, one_size: bool, accelerator: bool) -> int:
    """`data.image_size` for images of these [H, W]; 0 keeps the images' own size.

    Images of one size keep it if it has at most 1.25 times the pixels of the largest square. Others are
    resized to the median of their shorter sides, clipped to 8 and `LARGEST`, a multiple of 4: the networks
    halve it twice.
    """
    largest = LARGEST[accelerator]
    if not sizes:
        return largest
    if one_size and math.prod(sizes[0]) <= 1.25 * largest**2:
        return 0
    median = sorted(map(min, sizes))[len(sizes) // 2]
    return max(8, min(largest, median // 4 * 4))


def _method(facts: Facts, fields: Fields) -> str:
    """The recipe's method; MetaSemi where the options that are given are its own, as in its ablation."""
    chosen = FEATURES_METHOD if _features(facts) else METHOD
    given = {name for name, value in fields.items() if name.startswith('method.') and value is not None}

    def has_options(method: str) -> bool:
        return given <= {f'method.{option}' for option in method_options(method)}

    return next((method for method in (chosen, 'metasemi') if has_options(method)), chosen)


def _method_option(option: str) -> Rule:
    def rule(facts: Facts, fields: Fields) -> Any:
        method = fields['method.name']
        known = option in method_options(method)
        return OPTIONS.get(method, OTHER_OPTIONS).get(option) if known else None

    return rule


def _model(facts: Facts, fields: Fields) -> str:
    if _features(facts):
        return 'mlp'
    if not facts.accelerator or min(facts.image_shape[:2]) < conv_large.MIN_SIZE:
        return 'conv_small'
    return 'conv_large' if max(facts.image_shape[:2]) <= 48 else 'resnet18'


def _dropout(facts: Facts, fields: Fields) -> float | None:
    # Targets come from undropped images; BatchNorm's running statistics would be those of dropped ones.
    return 0.0 if fields['model.name'] in UNDROPPED else None


def _total_steps(facts: Facts, fields: Fields) -> int:
    published = _published(fields)
    if facts.accelerator and not _features(facts):
        return PUBLISHED_ACCELERATOR_STEPS if published else ACCELERATOR_STEPS
    passes = PASSES.get(fields['method.name'], OTHER_PASSES)
    images = fields['batch_size'] * (1 + fields['unlabeled_ratio'])
    affordable = min(facts.cores, CORES) * CPU_WORK / (passes * images / 2 * _multiply_adds(facts, fields))
    enough = EPOCHS * facts.num_images / (fields['batch_size'] * fields['unlabeled_ratio'])
    least, few = PUBLISHED_CPU_STEPS if published else CPU_STEPS
    return _round(max(least, min(affordable, max(few, enough))))


def _multiply_adds(facts: Facts, fields: Fields) -> float:
    """Multiply-adds of one example's forward pass through conv_small, the MLP or a published network."""
    if _features(facts):
        width = fields['model.width'] or MLP.width
        return width * (facts.image_shape[0] + width)
    height, width, channels = facts.image_shape
    if fields.get('model.name') in PUBLISHED_WORK and _published(fields):
        return PUBLISHED_WORK[fields['model.name']] * height * width / 224**2
    w = fields['model.width'] or ConvSmall.width
    full, half, quarter = w * (channels + w), 6 * w * w, 8 * w * w
    return 9 * height * width * (full + half / 4 + quarter / 16)


def _round(steps: float) -> int:
    """Round down to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return int(steps) // unit * unit


def _share(share: float) -> Rule:
    return lambda facts, fields: max(1, round(share * fields['total_steps']))


def _warmup(facts: Facts, fields: Fields) -> int:
    # A cosine refuses a warm-up as long as the run.
    return min(_share(0.05)(facts, fields), fields['total_steps'] - 1)


def _rampup(facts: Facts, fields: Fields) -> int | None:
    return _share(0.2)(facts, fields) if 'rampup_steps' in method_options(fields['method.name']) else None


def _ema_decay(facts: Facts, fields: Fields) -> float:
    """Average over a hundredth of the steps, and over at most a thousand."""
    return round(1 - 1 / min(1000, max(2, fields['total_steps'] / 100)), 4)


def _published(fields: Fields) -> bool:
    """Whether the run starts from published weights."""
    return is_weights_file(fields['model.init_from'])


def _features(facts: Facts) -> bool:
    return len(facts.image_shape) == 1


RULES: dict[str, Rule] = {
    'method.name': _method,
    'method.second_view': _method_option('second_view'),
    'method.temperature': _method_option('temperature'),
    'method.batch_norm': _method_option('batch_norm'),
    'model.name': _model,
    'model.dropout_rate': _dropout,
    'undropped_statistics': lambda facts, fields: bool(fields['model.dropout_rate']),
    'batch_size': lambda facts, fields: (
        PUBLISHED_BATCH_SIZE[facts.accelerator] if _published(fields) else BATCH_SIZE
    ),
    'total_steps': _total_steps,
    'optimizer.lr': lambda facts, fields: PUBLISHED_LR if _published(fields) else LR,
    'optimizer.warmup_steps': _warmup,
    'method.rampup_steps': _rampup,
    'ema_decay': _ema_decay,
    'eval_every': _share(0.05),
    'checkpoint_every': _share(0.25),
    'data.pad': lambda facts, fields: 0 if _features(facts) else max(1, min(facts.image_shape[:2]) // 8),
    'data.pad_mode': lambda facts, fields: 'black' if facts.black_border or _features(facts) else 'reflect',
}


def sentence(chosen: Mapping[str, Any], *, time_budget: bool = False) -> str:
    """One line for people: the chosen values, without those of a time budget, and how to change one."""
    told = {name: value for name, value in chosen.items() if not (time_budget and name in BUDGETED)}
    values = ', '.join(f'{name}={value}' for name, value in told.items() if value is not None)
    return f'chosen from the images and the device: {values}; config.FIELD=VALUE changes one'
