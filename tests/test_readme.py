import re

import jax.numpy as jnp
import numpy as np

from small_runs import ROOT


def test_the_example_runs_as_written():
    (example,) = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    np.testing.assert_allclose(names['pseudo_labels'].sum(-1), 1, rtol=1e-6)
    assert jnp.any(names['gradient'] != 0)


def test_every_file_that_the_architecture_names_exists():
    readme = (ROOT / 'README.md').read_text()
    picture = re.search(r'## Architecture\n\n```\n(.*?)```', readme, re.DOTALL)[1]
    package = picture.split('metasemi_jax/\n')[1].split('benchmarks/')[0]
    for name in re.findall(r'\b(\w+\.py)\b', package):
        assert name == 'default.py' or (ROOT / 'metasemi_jax' / name).exists(), name


def test_no_figure_is_left_to_be_filled_in():
    texts = [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'), *(ROOT / 'configs').glob('*.py')]
    for path in texts:
        assert not re.search(r'@[A-Z_]+@|\bTODO\b', path.read_text()), path
