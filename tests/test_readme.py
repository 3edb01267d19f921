import re

from small_runs import ROOT


def test_the_training_loop_runs_as_written_and_the_unlabeled_images_help(capsys):
    (example,) = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    labels_only = example.replace(' + 0.1 * consistency_loss(m, pseudo_labels)', '')
    assert labels_only != example
    errors = []
    for program in (example, labels_only):
        exec(program, {})
        errors.append(float(re.fullmatch(r'test error (.*)%\n', capsys.readouterr().out)[1]))
    assert errors[0] < errors[1] - 1
    (step,) = re.findall(r'    def labeled_loss.*?(?=\n\n\n)', example, re.DOTALL)
    assert len([line for line in step.splitlines() if line]) <= 10


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
