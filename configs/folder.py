"""A classifier from your own images; docs/own_images.md goes from an empty folder to a trained model.

    python main.py --config=configs/folder.py --config.data.path=DIR --workdir=runs/mine

DIR is a folder of PNG, JPEG, BMP or WebP files of any sizes, grey or in colour:

    labeled/<class>/*      a few of every class
    unlabeled/**           many, of the same classes
    test/<class>/*         optional: to report the error on
    val/<class>/*          optional: to choose the best step by

More of them than fit into data.memory_budget are decoded from disk as they are needed. DIR may also be
a CSV file with the columns path,label or path,label,split, or an .npz file with x and y (-1: unlabeled).

What is None is chosen from the images and the device when the run begins, by
metasemi_jax/training/recipe.py. The run prints what it chose, and keeps it in config.json. docs/recipe.md
says why, and what it gives.
"""

from ml_collections import config_dict

from metasemi_jax.configs import default


def get_config(method=None):
    """The deviations of one's own images from `default`; without `method` the recipe chooses one."""
    config = default.get_config(method)
    if method is None:
        config.method.name = config_dict.placeholder(str)
    config.recipe = 'auto'
    config.total_steps = config_dict.placeholder(int)
    config.batch_size = config_dict.placeholder(int)
    config.ema_decay = config_dict.placeholder(float)
    config.undropped_statistics = config_dict.placeholder(bool)

    config.data.name = 'own_images'
    config.data.image_size = config_dict.placeholder(int)
    config.data.pad = config_dict.placeholder(int)
    config.data.pad_mode = config_dict.placeholder(str)
    config.data.strong = 'affine'
    config.data.flip = False  # True where left and right do not differ in meaning, as in photographs

    config.model.name = config_dict.placeholder(str)

    config.optimizer.lr = config_dict.placeholder(float)
    config.optimizer.warmup_steps = config_dict.placeholder(int)
    config.optimizer.schedule = 'cosine'

    config.eval_every = config_dict.placeholder(int)
    config.checkpoint_every = config_dict.placeholder(int)
    return config
