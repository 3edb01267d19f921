"""Mean Teacher (Tarvainen and Valpola, NIPS 2017), as google-research/fixmatch `mean_teacher.py` has it."""

from metasemi_jax.methods.losses import mean_brier_score
from metasemi_jax.methods.meta import Meta
from metasemi_jax.methods.method import Method
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.schedules import linear_ramp
from metasemi_jax.methods.semi_supervised import semi_supervised
from metasemi_jax.methods.targets import predictions


def mean_teacher(
    network: Network,
    *,
    meta: Meta | None = None,
    consistency_weight: float = 50.0,
    rampup_share: float = 0.4,
    total_steps: int = 0,
) -> Method:
    """The EMA weights' predictions on one weak view are the targets of another.

    The teacher has the averages before the step, and runs in training mode: it normalises by the batch's
    statistics. USB takes the *teacher's* logits for the student's, which then have no gradient; its published
    error is that of labels alone.

    Args:
      meta: moves the targets.
      consistency_weight: final weight of the squared error (mean over the classes), reached linearly.
      rampup_share, total_steps: as in `pseudo_label`.
    """
    return semi_supervised(
        network,
        targets=predictions,
        meta=meta,
        predict='teacher',
        unlabeled_loss=mean_brier_score,
        weight=linear_ramp(consistency_weight, rampup_share * total_steps),
        second_view='weak',
    )
