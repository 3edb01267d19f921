"""STL-10: 1,000 labels of one predefined fold, 104,000 other images without, 96×96 pixels.

    python main.py --config=configs/stl10.py --workdir=runs/stl10
    python main.py --config=configs/stl10.py --config.data.split_file=fold_3.txt --workdir=runs/stl10_fold3

The data set made for this field: 5,000 labeled training images in ten folds of 1,000, which overlap, and
100,000 images without labels, some of other classes. Results are usually means over folds, fold_0.txt to
fold_9.txt. What the fold does not label is unlabeled. With `--config.data.split_file=` all labels count.

The first run downloads the archive (2.6 GB), or takes it from data.manual_dir (docs/data.md). Decoded, the
images take 3.1 GB, which a device must hold; with a smaller data.memory_budget they are read from disk.

MetaSemi's paper has no STL-10; this is its recipe for CIFAR-10, with the crop in proportion. Other
methods come with FixMatch's settings (configs/wide_resnet.py), but with WideResNet-28-2 where FixMatch has
a fourth stage for images of this size (37-2). Not run to its end here; no result is claimed.
"""

from metasemi_jax.configs import default, wide_resnet


def get_config(method='metasemi'):
    """STL-10's deviations from `default`."""
    config = default.get_config(method)

    config.data.name = 'stl10'
    config.data.split_file = 'fold_0.txt'
    config.data.flip = True
    config.data.pad = 12  # an eighth of the side, as 4 of 32

    config.eval_batch_size = 500
    if method == 'metasemi':
        config.method.mixup_gamma = 1.0
        config.optimizer.weight_decay = 1e-4
        return config
    wide_resnet.apply(config, method)
    return config
