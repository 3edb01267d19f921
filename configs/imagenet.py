"""MetaSemi on ImageNet with 10% of its labels, the recipe of the paper (ResNet-18 at 224×224 pixels).

    python main.py --config=configs/imagenet.py --config.data.manual_dir=DIR --workdir=runs/imagenet

DIR holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and, without a network, 10percent.txt; every run
reads its images there (docs/data.md). The paper reports 44.87% top-1 and 18.88% top-5 error, the best of 600
evaluations on the validation images, which serve as the test set here too. Not reproduced here yet.

    python main.py --config=configs/imagenet.py --config.method.name=supervised --workdir=runs/labeled_only

is the paper's baseline from the labels alone (53.65 and 31.01): 600 epochs of the labeled images.

Each of the authors' eight GPUs used its own share of the batch for the meta-gradient; here it is that of the
whole batch: less noise, and independent of the number of devices.
"""

from metasemi_jax.configs import default


def get_config(method='metasemi'):
    """ImageNet's deviations from `default`."""
    config = default.get_config(method)
    config.seed = 7788
    # 600 epochs: 1,153,051 unlabeled images in batches of 512 are 2,252.05 steps, 128,116 labeled ones 250.
    config.batch_size = 512
    epoch = 250 if method == 'supervised' else 2252
    config.total_steps = 150_000 if method == 'supervised' else 1_351_232

    config.data.name = 'imagenet2012'
    config.data.image_size = 224
    config.data.split_file = '10percent.txt'  # 128,116 images, of imagenet2012_subset/10pct in TFDS
    config.data.crop = 'resized'
    config.data.flip = True
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)

    config.model.name = 'resnet18'

    if method == 'metasemi':
        config.method.rampup_steps = 0

    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup_steps = 5 * epoch

    # As often as the authors evaluate.
    config.eval_every = epoch
    config.checkpoint_every = 2 * epoch
    config.eval_batch_size = 500
    return config
