"""README and docs: short enough to be read, and what they name is there."""

import re
import tomllib
from importlib.util import find_spec

import pytest
from sklearn.datasets import load_digits

from metasemi_jax.__main__ import COMMANDS
from metasemi_jax.config.fields import FIELDS
from small_runs import ROOT

README = ROOT / 'README.md'
DOCUMENTS = [README, *sorted((ROOT / 'docs').glob('*.md'))]
MOST_LINES, MOST_COLUMNS = 120, 100
# Places in sentences and commands where readers put what is theirs.
THEIRS = {'FILE.py', 'NAME.py', 'NAME.md', 'my_method.py'}
FILE = re.compile(r'(?<![\w/.{<*-])((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|txt|png))(?![\w.*])')
# Files that runs and users make.
MADE = {'labeled_ids.txt', 'validation_ids.txt', 'label_indices.txt', 'report.md', 'reliability.png'}
MADE |= {'fold_0.txt', 'fold_9.txt', '10percent.txt', '1percent.txt'}


def blocks(text, language):
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def commands(text):
    """Lines of shell, continued ones joined, the input of other programs left out."""
    for block in [*blocks(text, 'bash'), *re.findall(r'(?<=\n\n)((?: {4}\S.*\n)+)', text)]:
        block = re.sub(r"<<'END'\n.*?^END$", '', block, flags=re.DOTALL | re.MULTILINE)
        yield from (line.strip() for line in block.replace('\\\n', ' ').splitlines() if line.strip())


def anchors(path):
    titles = re.findall(r'^#+ (.*)', path.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def run(program, capsys):
    exec(program, {})
    return float(re.fullmatch(r'test error (.*)%\n', capsys.readouterr().out)[1])


def test_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > MOST_COLUMNS] == []


@pytest.mark.usefixtures('optimized')
def test_the_training_loop_of_readme_runs_as_written_and_the_unlabeled_images_help(capsys):
    (example,) = [block for block in blocks(README.read_text(), 'python') if 'make_train_step' in block]
    labels_only = re.sub(r"create_method\('metasemi'[^)]*\)", "create_method('supervised', model)", example)
    assert labels_only != example
    assert run(example, capsys) < run(labels_only, capsys) - 5


def test_the_classifier_of_readme_fits_as_written():
    (example,) = [block for block in blocks(README.read_text(), 'python') if 'Classifier' in block]
    short = example.replace('random_state=0', 'random_state=0, total_steps=2')
    assert short != example
    # The network of features compiles in the shortest time.
    digits = load_digits()
    names = {'images': digits.data[:200], 'labels': digits.target[:200].copy()}
    exec(short, names)
    assert names['classes'].shape == (200,)
    assert {*names['classes']} <= {*range(10)}


@pytest.mark.usefixtures('optimized')
def test_the_meta_gradient_of_any_model_runs_as_written_and_the_unlabeled_images_help(capsys):
    (example,) = blocks((ROOT / 'docs' / 'method.md').read_text(), 'python')
    labels_only = example.replace(' + 0.1 * consistency_loss(m, pseudo_labels)', '')
    assert labels_only != example
    assert run(example, capsys) < run(labels_only, capsys) - 1
    (step,) = re.findall(r'    def labeled_loss.*?(?=\n\n\n)', example, re.DOTALL)
    assert len([line for line in step.splitlines() if line]) <= 10


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r'\]\((?!https?:)([^)]+)\)', path.read_text()):
        name, _, anchor = target.partition('#')
        there = path.parent / name if name else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path):
    text = path.read_text()
    names = {*FILE.findall(re.sub(r'https?://\S+|^ *```python.*?^ *```', '', text, flags=re.S | re.M))}
    roots = (ROOT, ROOT / 'metasemi_jax', ROOT / 'configs', ROOT / 'docs', path.parent)
    for name in names:
        if name.rpartition('/')[2] not in MADE | THEIRS and not name.startswith(('mine/', 'runs/', 'libml/')):
            assert any((root / name).exists() for root in roots), name
    for name, defined in re.findall(r'`((?:\w+/)*\w+\.py): (\w+)', text):
        source = next(root / name for root in roots if (root / name).exists()).read_text()
        assert re.search(rf'^(def|class) {defined}\b|^{defined} = ', source, re.MULTILINE), (name, defined)


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_every_module_config_and_field_that_is_named_exists(path):
    text = path.read_text()
    for module in re.findall(r'python -m ([\w.]+)', text):
        if module.startswith(('metasemi_jax', 'benchmarks')) and module != 'metasemi_jax.NAME':
            assert find_spec(module), module
    for field in re.findall(r'--config\.([\w.]*\w)', text):
        assert field in FIELDS or field in ('FIELD', 'method'), field
    for name in re.findall(r'--config=([\w/]+\.py)', text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r'--config=(\w+)(?![\w/.])', text):
        assert name == 'FILE' or (ROOT / 'configs' / f'{name}.py').exists(), name
    for command in re.findall(r'^metasemi ([\w-]+)|`metasemi ([\w-]+)', text, re.MULTILINE):
        assert ''.join(command) in {*COMMANDS, 'NAME'}, command


def test_every_flag_of_our_commands_is_defined():
    sources = [ROOT / 'main.py', *(ROOT / 'metasemi_jax').rglob('*.py'), *(ROOT / 'benchmarks').glob('*.py')]
    defined = r"DEFINE_\w+\(\s*'(\w+)'"
    flags = {flag for source in sources for flag in re.findall(defined, source.read_text())} | {'help'}
    ours = re.compile(r'python (main\.py|-m (metasemi_jax|benchmarks)\.)|^metasemi ')
    named = [
        flag
        for path in DOCUMENTS
        for line in commands(path.read_text())
        if (found := ours.search(line))
        for flag in re.findall(r'(?<!\S)--(\w+)', line[found.end() :])
    ]
    assert len(named) > 50
    assert {*named} <= flags


def test_every_field_is_explained():
    text = (ROOT / 'docs' / 'running.md').read_text()
    assert [field for field in FIELDS if f'`{field}`' not in text] == []


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_commands_can_be_pasted(path):
    """At its prompt zsh takes a comment behind a command for arguments."""
    for line in commands(path.read_text()):
        assert not re.search(r'(^|\s)#', line), line


def test_the_extras_have_the_range_of_jax():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    (wanted,) = re.findall(r'^jax([<>=]\S+)$', (ROOT / 'requirements.txt').read_text(), re.MULTILINE)
    extras = project['optional-dependencies']
    named = {
        name for path in DOCUMENTS for name in re.findall(r"pip install '\.\[([\w-]+)\]'", path.read_text())
    }
    assert {*extras} == named
    for needs in extras.values():
        assert {re.sub(r'^[\w-]+(\[\w+\])?', '', need) for need in needs} == {wanted}


def test_no_figure_is_left_to_be_filled_in():
    for path in [*DOCUMENTS, *(ROOT / 'configs').glob('*.py')]:
        assert not re.search(r'@[A-Z_]+@|\bTODO\b', path.read_text()), path
