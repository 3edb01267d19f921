"""The house: what may import what, and how large the rooms are."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / 'metasemi_jax'
# From the ground up; a module imports from its own layer, or a layer below. A name is a module, or a folder
# without those of its modules that have a place of their own.
LAYERS = (
    ('errors', 'progress', 'files', 'compilation_cache', 'command'),
    ('batch', 'metrics', 'ema', 'optimizer', 'meta_gradient'),
    ('methods', 'models'),
    ('torch_import.state_dict',),
    ('pretrained',),
    ('train_step', 'distributed'),
    ('data',),
    ('config', 'results'),
    ('workdir',),
    ('training',),
    ('classifier',),
    ('training.initial_weights', 'training.loop'),
    ('fitting',),
    ('sklearn',),
    ('command.help', 'command.flags'),
    ('cli',),
    ('command.train', 'sweep'),
    ('predict', 'export', 'torch_import', 'plan'),
    ('visualize',),
    ('report',),
    ('__main__',),
)
SETTINGS = 'configs'  # plain files that the package brings; they import nothing of it
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}
MOST_MODULES_ON_TOP = 20
MOST_LINES_OF_A_METHOD = 120


def imports(path):
    """'methods.losses' for each module of the package that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith(f'{PACKAGE.name}.'):
            yield node.module.removeprefix(f'{PACKAGE.name}.')
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (n.removeprefix(f'{PACKAGE.name}.') for n in names if n.startswith(f'{PACKAGE.name}.'))


def modules():
    files = (path for path in PACKAGE.rglob('*.py') if 'configs' not in path.relative_to(PACKAGE).parts)
    return sorted(path for path in files if path.parent != PACKAGE or path.stem != '__init__')


def place(name):
    """The name in `LAYERS` of a module of the package, 'training.loop', or None."""
    parts = name.split('.')
    return next((p for n in range(len(parts), 0, -1) if (p := '.'.join(parts[:n])) in LAYER_OF), None)


def dotted(path):
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


def test_every_module_has_a_layer():
    places = {dotted(path): place(dotted(path)) for path in modules()}
    assert {*places.values()} == {*LAYER_OF}, [name for name, found in places.items() if found is None]


def test_no_import_runs_upward():
    upward = [
        f'{path.relative_to(PACKAGE)} imports {name}'
        for path in modules()
        for name in imports(path)
        if name.split('.')[0] != SETTINGS
        and LAYER_OF.get(place(name), len(LAYERS)) > LAYER_OF[place(dotted(path))]
    ]
    assert upward == []


def test_the_step_and_the_methods_know_no_run():
    """Below the configs there are plain arguments: no flags, no ml_collections, no Orbax."""
    strangers = ('absl', 'ml_collections', 'orbax', 'flax')
    for path in modules():
        if place(dotted(path)) not in ('batch', 'metrics', 'ema', 'optimizer', 'meta_gradient', 'methods'):
            continue
        found = [
            node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [name for name in found if name and name.split('.')[0] in strangers], path


def test_the_top_folder_reads_as_a_table_of_contents():
    assert len([path for path in modules() if path.parent == PACKAGE]) <= MOST_MODULES_ON_TOP


def test_a_method_fits_on_a_page():
    long = {
        path.name: lines
        for path in (PACKAGE / 'methods').rglob('*.py')
        if (lines := len(path.read_text(encoding='utf-8').splitlines())) > MOST_LINES_OF_A_METHOD
    }
    assert long == {}
