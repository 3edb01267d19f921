"""The recipe that google-research/fixmatch and USB share; no experiment by itself.

It serves every method but MetaSemi: WideResNet-28-2, 64 labeled images and 64μ unlabeled ones a step, 2²⁰
steps, whatever the number of labels. The two programs differ in details; docs/methods.md says which is
followed where.
"""

SEVEN_UNLABELED = ('uda', 'fixmatch', 'flexmatch', 'freematch', 'softmatch')
USB = ('flexmatch', 'freematch', 'softmatch')  # whose authors' program this is; the others are Google's
ADAM = ('vat', 'ict', 'mixmatch')


def apply(config, method):
    """Turn the recipe of MetaSemi in `config` into that of `method`."""
    config.total_steps = 1_048_576
    config.batch_size = 64
    config.unlabeled_ratio = 7 if method in SEVEN_UNLABELED else 1
    config.ema_decay = 0.999
    config.ema_convention = 'mean_teacher' if method in ('mean_teacher', 'ict') else 'constant'

    config.data.include_labeled = True
    config.data.pad_mode = 'reflect'
    config.data.strong = 'usb' if method in USB else 'google'

    config.model.name = 'wide_resnet'

    config.optimizer.lr = 0.03
    config.optimizer.nesterov = True
    config.optimizer.warmup_steps = 0
    config.optimizer.schedule = 'cosine_7_16'
    config.optimizer.weight_decay = 5e-4
    config.optimizer.weight_decay_on = 'kernels'
    if method in ADAM:
        config.optimizer.name = 'adamw'
        config.optimizer.nesterov = False
        config.optimizer.lr = 2e-3
        config.optimizer.schedule = 'milestones'  # none: a constant rate
        config.optimizer.milestones = ()
        config.optimizer.weight_decay = 0.02

    config.eval_every = 5000
    config.checkpoint_every = 10_000
