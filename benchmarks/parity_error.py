"""How far this program is from the authors' on the reference runs: a Markdown table of relative errors.

    python -m benchmarks.parity_error convlarge_mixup convlarge_plain shake_shake26

An error is the largest deviation over all entries and steps, divided by the largest entry. The last column is
`jvp` in float32 against `jvp` in float64 (tests/data/jvp_float64.npz), all steps of convlarge_mixup.
"""

import sys

import jax.numpy as jnp
import numpy as np

from tests.helpers.reference_runs import JVP_FIGURES, NETS, figures_of, load, relative_error


def main() -> None:
    """Print the table, a column for each run named on the command line; all three by default."""
    columns = {}
    for name in sys.argv[1:] or NETS:
        run = load(name)
        actual = figures_of(name, dtype=jnp.float64, estimator='finite_difference')
        columns[name] = {key: relative_error(value, run[f'out/{key}']) for key, value in actual.items()}
    with np.load(JVP_FIGURES) as file:
        expected = dict(file)
    actual = figures_of('convlarge_mixup', dtype=jnp.float32, estimator='jvp')
    columns['float32 `jvp`'] = {key: relative_error(actual[key], expected[key]) for key in expected}
    print(f'| number | {" | ".join(columns)} |\n|---{"|---" * len(columns)}|')
    for key in expected:
        print(f'| `{key}` | {" | ".join(f"{errors[key]:.1e}" for errors in columns.values())} |')


if __name__ == '__main__':
    main()
