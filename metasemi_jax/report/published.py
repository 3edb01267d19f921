"""The paper's figures, to be shown beside our own.

Source: Zhang, Xiao, Jia, Cheng, Yang, "Semi-Supervised Learning with Meta-Gradient", AISTATS 2021 (PMLR
130:73-81, arXiv 2007.03966).
"""

from typing import Any, NamedTuple

# method.meta, method.mixup
ABLATION = {
    (False, False): 'labeled only',
    (True, False): 'meta only',
    (False, True): 'mix-up only',
    (True, True): 'MetaSemi',
}
CAVEAT = 'the best of about 1,000 evaluations on the test set, one seed'


class Recipe(NamedTuple):
    """What the paper trained."""

    dataset: str
    num_labels: int
    model: str


class Published(NamedTuple):
    """Test errors in percent, by the names in `ABLATION`, and with all the labels there are."""

    errors: dict[str, float]
    all_labels: float


PUBLISHED = {
    Recipe('svhn_cropped', 1000, 'conv_large'): Published(
        {'labeled only': 9.76, 'meta only': 3.68, 'mix-up only': 5.60, 'MetaSemi': 3.15}, 2.67
    ),
    Recipe('cifar10', 4000, 'conv_large'): Published(
        {'labeled only': 15.43, 'meta only': 11.63, 'mix-up only': 11.10, 'MetaSemi': 7.78}, 4.88
    ),
    Recipe('cifar100', 10000, 'conv_large'): Published(
        {'labeled only': 38.74, 'meta only': 35.40, 'mix-up only': 32.67, 'MetaSemi': 30.74}, 22.10
    ),
    # Top-1; the labeled 10% are the 128,116 images of imagenet2012_subset/10pct.
    Recipe('imagenet2012', 128116, 'resnet18'): Published({'labeled only': 53.65, 'MetaSemi': 44.87}, 29.15),
}


def published(fields: dict[str, Any], num_labels: int) -> Published | None:
    """The paper's figures for a run, where dataset, number of labels and network are one of its recipes.

    Args:
      fields: of the run's config, flat: {'data.name': 'svhn_cropped', ...}.
      num_labels: the labeled images that it had, those held out included.
    """
    # Another width or dropout rate is another network.
    if fields['model.width'] is not None or fields['model.dropout_rate'] is not None:
        return None
    return PUBLISHED.get(Recipe(fields['data.name'], num_labels, fields['model.name']))
