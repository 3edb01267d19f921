"""What a step of a method costs: XLA's FLOPs of its gradient over those of one forward pass."""

from typing import Any

# The operations are what is counted, not the machine code of a CPU.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def forward_passes(
    name: str,
    model: Any,
    shape: tuple[int, int, int],
    num_classes: int,
    unlabeled_ratio: int = 1,
    batch_size: int = 8,
    **options: Any,
) -> float:
    """FLOPs of the gradient of a method's loss over those of one forward pass of the labeled images.

    Args:
      name: a key of `METHODS`.
      model: as `create_model` returns it.
      shape: [H, W, C] of the images.
      num_classes: K.
      unlabeled_ratio: μ.
      batch_size: B, which matters little.
      **options: the method's own.
    """
    import jax
    import jax.numpy as jnp

    from metasemi_jax.batch import Batch
    from metasemi_jax.methods import create_method
    from metasemi_jax.methods.method import Inputs, Keys
    from metasemi_jax.models import variable_shapes

    method, count = create_method(name, model, **options), unlabeled_ratio * batch_size
    images = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    unlabeled = jax.ShapeDtypeStruct((count, *shape), jnp.float32)
    ids = jax.ShapeDtypeStruct((count,), jnp.int32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    batch = Batch(images, labels, unlabeled, None, unlabeled if method.second_view else None, ids)
    variables = variable_shapes(model, shape)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda: method.init(num_classes, count))

    def gradient(variables: Any, state: Any, batch: Batch, key: Any) -> Any:
        params, statistics = variables['params'], variables['batch_stats']
        ema = jax.tree.map(lambda leaf: 0.9 * leaf, variables)
        inputs = Inputs(params, statistics, ema, state, jnp.int32(0), batch, jnp.float32(0.1))
        grads, outcome = jax.grad(method.loss, has_aux=True)(params, inputs, Keys(key, key))
        return grads, outcome.batch_stats, outcome.state

    def forward(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, train=False)

    flops = [
        jax.jit(function).lower(*arguments).compile(QUICK).cost_analysis()['flops']
        for function, arguments in (
            (gradient, (variables, state, batch, key)),
            (forward, (variables, images)),
        )
    ]
    return flops[0] / flops[1]
