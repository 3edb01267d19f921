"""The command `metasemi`: its subcommands are those of `python -m`, its mistakes end in one line."""

import importlib.util
import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from metasemi_jax import __main__ as command
from metasemi_jax.command import signals
from small_runs import ROOT


@pytest.fixture
def run(monkeypatch, capsys):
    """What `metasemi ARGUMENTS` prints, and with which message or code it ends."""
    # It is no program of its own here, whose signals it may take.
    monkeypatch.setattr(signals, 'watching', lambda: True)

    def typed(*arguments):
        monkeypatch.setattr(sys, 'argv', ['metasemi', *arguments])
        try:
            command.main()
        except SystemExit as exit_:
            return capsys.readouterr().out, exit_.code
        return capsys.readouterr().out, None

    return typed


def test_help_fits_on_a_screen(run):
    text, code = run('--help')
    assert code is None
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name in command.COMMANDS:
        assert any(line.startswith(f'  {name} ') for line in lines)
    assert run('-h') == run('help') == (text, None)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['trian'], "error: unknown command 'trian'; did you mean metasemi train?"),
        (['torch_import'], "error: unknown command 'torch_import'; did you mean metasemi torch-import?"),
        (['xyz'], "error: unknown command 'xyz'; metasemi COMMAND runs one of train, predict,"),
        ([], 'error: name a command; metasemi COMMAND runs one of train,'),
        (['--workdir=x'], 'error: name a command; '),
    ],
)
def test_mistakes_end_in_one_line(run, arguments, message):
    out, line = run(*arguments)
    assert out == ''
    assert line.startswith(message)
    assert '\n' not in line


@pytest.mark.parametrize('name', command.COMMANDS)
def test_every_command_runs_its_module(run, monkeypatch, name):
    module = command.COMMANDS[name][0]
    runs = []
    monkeypatch.setattr(
        runpy, 'run_module', lambda *given, **options: runs.append((given, options, sys.argv))
    )
    assert run(name, '--output=x', 'y') == ('', None)
    expected = {'run_name': '__main__', 'alter_sys': True}
    assert runs == [((module,), expected, ['metasemi', '--output=x', 'y'])]
    found = importlib.util.find_spec(f'{module}.__main__') if name not in ('train', 'export') else None
    source = Path((found or importlib.util.find_spec(module)).origin).read_text(encoding='utf-8')
    assert source.endswith("if __name__ == '__main__':\n    main(sys.argv)\n")


def test_as_a_user_types_it(tmp_path):
    def typed(*arguments):
        command = [sys.executable, '-m', 'metasemi_jax', *arguments]
        environment = os.environ | {'PYTHONPATH': str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    helped = typed('report', '--help')
    assert (helped.returncode, helped.stderr) == (0, '')
    assert helped.stdout.startswith('One table, and a picture, of any number of runs')
    wrong = typed('train', '--config=nope')
    assert (wrong.returncode, wrong.stdout) == (1, '')
    assert wrong.stderr.startswith('error: --config=nope: there is no such file')
    assert list(tmp_path.iterdir()) == []


def test_the_installed_script_is_this_command():
    scripts = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['scripts']
    assert scripts == {'metasemi': 'metasemi_jax.__main__:main'}
