"""Every field of a run, with the values that the experiments share; not an experiment by itself.

An experiment file takes this and changes what differs. A command-line value wins over both:
`python main.py --config=configs/svhn.py --config.optimizer.lr=0.05`. An unknown field is an error.
"""

import ml_collections
from ml_collections import config_dict

TEACHERS = ('mean_teacher', 'ict')  # methods that learn from averaged weights


def get_config(method: str | None = 'metasemi') -> ml_collections.ConfigDict:
    """The recipe of MetaSemi's authors where its experiments agree, with `method` in its place."""
    config = ml_collections.ConfigDict()

    config.seed = 0  # seeds labeled split, initial weights, batches, augmentation, mix-up and dropout
    # 'auto': what is None is chosen from the images and the device when the run begins, see docs/recipe.md.
    config.recipe = ''
    config.total_steps = 400_000
    # '10m' ends the run in that time: total_steps, schedule and cadences are scaled to it at the start.
    config.time_budget = ''
    config.batch_size = 128  # labeled images a step
    config.unlabeled_ratio = 1  # unlabeled images a step for each labeled one
    config.dtype = 'auto'  # computation in 'float32', 'bfloat16', or 'auto': bfloat16 on accelerators
    # Decay of averaged weights, evaluated beside the raw ones; 0 for none
    config.ema_decay = 0.999 if method in TEACHERS else 0.0
    # 'mean_teacher': a plain mean of the first weights, BatchNorm's statistics averaged too; or 'constant':
    # ema_decay from the first step on, raw statistics, as in FixMatch's code and USB.
    config.ema_convention = 'mean_teacher'

    config.undropped_statistics = False  # BatchNorm's statistics from passes without dropout

    config.data = data = ml_collections.ConfigDict()
    data.name = ''
    data.data_dir = ''  # folder of TFDS datasets; '' for $TFDS_DATA_DIR or ~/tensorflow_datasets
    data.manual_dir = ''  # folder of original archives; '' for downloads/manual in data_dir, else download
    data.path = ''  # your own images: a folder, a .csv or an .npz file, see docs/own_images.md
    data.image_size = 0  # side in pixels to which your own images are resized; 0 keeps that of an .npz file's
    data.memory_budget = 8_000_000_000  # bytes that your own images may take, decoded; else they are streamed
    data.num_workers = config_dict.placeholder(int)  # processes that decode streamed images; None: one a core
    data.num_labels = 0  # labeled images in all, the same number of every class; 0 for all labels there are
    # Labeled images held out, to choose the best step by; with 0 a fifth if there is no test set, else none.
    data.num_validation = 0
    data.include_labeled = False  # whether labeled images are unlabeled ones too, as in FixMatch's program
    data.split_file = ''  # labeled images: a run's labeled_ids.txt, or the authors' label_indices.txt
    data.crop = 'pad'  # random crop after padding; or 'resized': of random area and shape, of image files
    data.pad = 4  # pixels on every side; 0 for no crop
    data.pad_mode = 'black'  # or 'reflect'
    data.crop_area = (0.1, 1.0)  # share of the image that crop='resized' cuts out
    data.crop_aspect = (0.8, 1.25)  # width / height of crop='resized'
    data.flip = False  # random horizontal flip
    # The strong view: RandAugment 'google' or 'usb', or 'affine', milder, for small images and writing
    data.strong = 'google'
    data.mean = ()  # per channel, of images scaled to 0..1; () computes them from the training images
    data.std = ()

    config.model = model = ml_collections.ConfigDict()
    model.name = 'conv_large'
    model.width = config_dict.placeholder(int)  # None for the model's own
    model.depth = config_dict.placeholder(int)  # None for the model's own; wide_resnet has the option
    model.dropout_rate = config_dict.placeholder(float)  # None for the model's own
    # Weights to begin with: a .pth or .safetensors file of a published network, see docs/pretrained.md; or a
    # run's folder, whose last ones are taken, or FOLDER:best, :ema, :best_ema. '': drawn weights.
    model.init_from = ''
    # How many of the last blocks are trained; 0: the last linear layer alone, None: everything.
    model.trained_blocks = config_dict.placeholder(int)

    config.method = options = ml_collections.ConfigDict()
    options.name = method  # a key of metasemi_jax.methods.METHODS, or FILE.py:FUNCTION; see docs/methods.md
    # What is None is the method's own. `meta` moves the targets of any method; metasemi without it, or
    # without `mixup`, is one of the four rows of the paper's ablation.
    options.meta = config_dict.placeholder(bool)
    options.meta_moves = config_dict.placeholder(str)  # 'labels', 'weights' or 'both'
    options.meta_lr = config_dict.placeholder(float)  # β, step size of the targets
    options.inner_lr = config_dict.placeholder(float)  # α of the meta-gradient's step; None: optimizer.lr
    options.second_view = config_dict.placeholder(str)  # metasemi's consistency: 'weak' or 'strong'
    options.estimator = config_dict.placeholder(str)  # 'jvp', 'finite_difference', the paper's, or 'exact'
    options.epsilon = config_dict.placeholder(float)  # step length ‖εg‖₂ of finite_difference
    options.at_inner_step = config_dict.placeholder(bool)  # jvp and finite_difference: ∇L_l at θ̃, not at θ
    options.mixup = config_dict.placeholder(bool)
    options.mixup_gamma = config_dict.placeholder(float)  # γ of λ ~ Beta(γ, γ)
    options.consistency_weight = config_dict.placeholder(float)  # weight of the unlabeled loss
    options.rampup_steps = config_dict.placeholder(int)  # metasemi: steps until that weight is reached
    options.rampup_share = config_dict.placeholder(float)  # other methods: that as a share of total_steps
    options.threshold = config_dict.placeholder(float)  # probability from which a target counts
    options.temperature = config_dict.placeholder(float)  # less than 1 sharpens the targets
    options.momentum = config_dict.placeholder(float)  # share of the old average that is kept
    options.most = config_dict.placeholder(float)  # freematch: the largest threshold
    options.num_sigma = config_dict.placeholder(float)  # softmatch: n of the weight exp(-d²/(2σ²/n²))
    options.fairness_weight = config_dict.placeholder(float)  # freematch: weight of the fairness term
    options.radius = config_dict.placeholder(float)  # vat: ‖r‖₂ of the perturbation
    options.xi = config_dict.placeholder(float)  # vat: length of the trial step; 0 is its limit
    options.entropy_weight = config_dict.placeholder(float)  # vat: weight of the mean entropy
    options.batch_norm = config_dict.placeholder(str)  # 'joint' or 'labeled', for methods with a strong view

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = 'sgd'  # or 'adam': weight decay joins the gradient, 'adamw': it stays beside it
    optimizer.lr = 0.1
    optimizer.body_lr_scale = 1.0  # factor on the rate of all layers but the last linear one
    optimizer.warmup_steps = 4000
    # After the warm-up; 'cosine' falls to 0 at total_steps, 'cosine_7_16', FixMatch's, to 0.195·lr.
    optimizer.schedule = 'milestones'
    optimizer.milestones = (300_000, 350_000)  # the rate falls to a tenth after each
    optimizer.momentum = 0.9  # momentum of sgd; β₁ of adam and adamw
    optimizer.nesterov = False  # Nesterov's momentum, sgd alone
    optimizer.weight_decay = 1e-4
    optimizer.weight_decay_on = 'all'  # all parameters, or 'kernels': neither biases nor BatchNorm's scales

    config.log_every = 100  # steps between two logs
    config.eval_every = 400
    config.eval_batch_size = 1000
    config.checkpoint_every = 4000
    config.steps_per_call = 0  # 0: one on CPU, 100 on accelerators
    # Where the loss is no longer a number: 'stop', or 'rollback': from the last checkpoint at half the rate.
    config.on_nonfinite = 'stop'

    return config
