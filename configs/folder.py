"""MetaSemi on your own images; docs/own_images.md goes from an empty folder to a trained model.

    python main.py --config=configs/folder.py --config.data.path=DIR --workdir=runs/mine

DIR is a folder of PNG, JPEG, BMP or WebP files of any sizes, grey or in colour:

    labeled/<class>/*      a few of every class
    unlabeled/**           many, of the same classes
    test/<class>/*         optional: to report the error on
    val/<class>/*          optional: to choose the best step by

More of them than fit into data.memory_budget are decoded from disk as they are needed. DIR may also be
a CSV file with the columns path,label or path,label,split, or an .npz file with x and y (-1: unlabeled).

These settings are the paper's for images of 32×32, on a shorter schedule; they were not tuned, and no result
is claimed. For a GPU; on a CPU add --config.model.name=conv_small.
"""

from metasemi_jax.configs import default


def get_config(method='metasemi'):
    """The deviations of one's own images from `default`."""
    config = default.get_config(method)
    config.total_steps = 20_000
    config.batch_size = 64
    config.ema_decay = 0.999

    config.data.name = 'own_images'
    config.data.image_size = 32
    config.data.flip = True  # False where left and right differ in meaning, as in writing

    if method == 'metasemi':
        config.method.rampup_steps = 1000
    config.optimizer.warmup_steps = 1000
    config.optimizer.milestones = (15_000, 17_500)

    config.checkpoint_every = 2000
    return config
