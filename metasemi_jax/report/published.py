"""Published test errors, to be shown beside our own: each with the program and the network that gave it."""

from typing import Any, NamedTuple

from metasemi_jax.methods.titles import method_title


class Source(NamedTuple):
    """Source of published errors."""

    code: str  # whose program
    network: str
    how: str  # which metric of a run was taken
    column: str  # the heading of our metric that compares
    model: str  # the network's name here
    depth: int | None = None  # None: the network has none


class PublishedError(NamedTuple):
    """A test error in percent, and the error with all labels."""

    error: float
    source: Source
    all_labels: float | None = None


# Zhang, Xiao, Jia, Cheng, Yang, "Semi-Supervised Learning with Meta-Gradient", AISTATS 2021 (PMLR 130:73-81,
# arXiv 2007.03966).
_BEST = 'the best of about 1,000 evaluations on the test set, one seed'
PAPER = Source("MetaSemi's paper", 'ConvLarge', _BEST, 'best (selected on test)', 'conv_large')
PAPER_IMAGENET = PAPER._replace(network='ResNet-18', model='resnet18')
# The paper's Table 1 quotes these errors from other papers.
QUOTED = PAPER._replace(code="others' programs, as quoted by MetaSemi's paper", how='as quoted there')
# microsoft/Semi-supervised-learning, results/classic_cv.csv.
USB = Source(
    'USB',
    'WideResNet-28-2',
    'the best evaluation on the test set, mean of 3 seeds',
    PAPER.column,
    'wide_resnet',
    28,
)
WIDTHS = {'conv_large': 128, 'wide_resnet': 2}  # of the published networks
# Options that no published program has: the values that switch them off.
WITHOUT_OURS = {'undropped_statistics': (None, False), 'data.strong': (None, 'google', 'usb')}
METASEMI_WITHOUT_OURS = {
    'method.second_view': (None,),
    'method.temperature': (None, 1),
    'method.meta_moves': (None, 'labels'),
    'method.inner_lr': (None,),
}

_USB_TITLES = ('FixMatch', 'FlexMatch', 'FreeMatch', 'SoftMatch', 'MixMatch')


def _usb(*errors: float) -> tuple[Source, dict[str, float], None]:
    return USB, dict(zip(_USB_TITLES, errors, strict=True)), None


# (data set, labels) -> source, errors by the method's title, error with all labels
PUBLISHED = {
    ('svhn_cropped', 1000): [
        (PAPER, {'labeled only': 9.76, 'meta only': 3.68, 'mix-up only': 5.60, 'MetaSemi': 3.15}, 2.67),
        (QUOTED, {'Π model': 4.82, 'Mean Teacher': 3.95, 'VAT': 5.42, 'VAT + EntMin': 3.86}, None),
        _usb(2.00, 5.43, 4.31, 2.08, 3.12),
    ],
    ('cifar10', 4000): [
        (PAPER, {'labeled only': 15.43, 'meta only': 11.63, 'mix-up only': 11.10, 'MetaSemi': 7.78}, 4.88),
        (QUOTED, {'Π model': 12.36, 'Mean Teacher': 12.31, 'VAT': 11.36, 'VAT + EntMin': 10.55}, None),
        _usb(4.29, 4.28, 4.14, 4.27, 7.38),
    ],
    ('cifar10', 250): [_usb(4.97, 5.00, 4.85, 4.84, 37.28)],
    ('cifar10', 40): [_usb(8.33, 5.21, 4.97, 5.06, 70.67)],
    ('cifar100', 10000): [
        (PAPER, {'labeled only': 38.74, 'meta only': 35.40, 'mix-up only': 32.67, 'MetaSemi': 30.74}, 22.10),
        (QUOTED, {'Π model': 39.19}, None),
        _usb(28.28, 27.12, 27.17, 27.26, 32.10),
    ],
    # Top-1; the labeled 10% are the 128,116 images of imagenet2012_subset/10pct.
    ('imagenet2012', 128116): [(PAPER_IMAGENET, {'labeled only': 53.65, 'MetaSemi': 44.87}, 29.15)],
}


def published(fields: dict[str, Any], num_labels: int) -> PublishedError | None:
    """The published error of a run's method, with its network and as many labels of its data set.

    USB's Mean Teacher, Π model, VAT and UDA are not here: its programs for the first and the last differ from
    the methods, see docs/methods.md.

    Args:
      fields: flat config of the run, as `settled` completes it: {'data.name': 'svhn_cropped', ...}.
      num_labels: number of its labeled images, those held out included.
    """
    title = method_title(fields)
    for source, errors, all_labels in PUBLISHED.get((fields['data.name'], num_labels), ()):
        if title in errors and _is_as_published(fields) and _is_network(fields, source):
            return PublishedError(errors[title], source, all_labels)
    return None


def _is_as_published(fields: dict[str, Any]) -> bool:
    without = WITHOUT_OURS | (METASEMI_WITHOUT_OURS if fields['method.name'] == 'metasemi' else {})
    return all(fields.get(name) in values for name, values in without.items())


def _is_network(fields: dict[str, Any], source: Source) -> bool:
    # Another width, depth or dropout rate is another network.
    return (
        fields['model.name'] == source.model
        and fields['model.width'] in (None, WIDTHS.get(source.model))
        and fields.get('model.depth') in (None, source.depth)
        and fields['model.dropout_rate'] is None
    )
