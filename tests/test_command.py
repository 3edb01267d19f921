"""Commands without a config; tests/test_main.py has those with one."""

import pytest
from absl import flags

from metasemi_jax.cli import run_command
from metasemi_jax.errors import UserError


def run(main, *argv, **options):
    """The exit message, or None where it ended well."""
    values = flags.FlagValues()
    flags.DEFINE_integer('number', 1, 'A number.', flag_values=values)
    try:
        run_command(lambda *given: main(values, *given), ['command', *argv], values=values, **options)
    except SystemExit as exit_:
        return exit_.code
    return None


def test_flags_and_arguments_in_any_order():
    calls = []

    def main(values, *given):
        calls.append((values['number'].value, given))

    assert run(main) is None
    assert run(main, 'a', '--number=2', 'b', many=True) is None
    assert run(main, many=True) is None
    assert run(main, 'a', argument='file') is None
    assert run(main, '--', '--number=3', many=True) is None
    assert calls == [(1, ()), (2, ('a', 'b')), (1, ()), (1, ('a',)), (1, ('--number=3',))]


@pytest.mark.parametrize(
    ('argv', 'options', 'message'),
    [
        (['--nope=1'], {}, "Unknown command line flag 'nope'"),
        (['--number=many'], {}, 'flag --number=many: must be a whole number'),
        (['a'], {}, "unexpected argument 'a'; --help shows the flags"),
        ([], {'argument': 'file'}, 'name one file'),
        (['a', 'b'], {'argument': 'file'}, "unexpected argument 'b'"),
    ],
)
def test_mistakes_end_in_one_line(argv, options, message):
    def main(*_):
        raise AssertionError('called')

    line = run(main, *argv, **options)
    assert line.startswith('error: ')
    assert message in line
    assert '\n' not in line


def test_what_main_raises_ends_in_one_line():
    def main(*_):
        raise UserError('no such workdir; name another')

    assert run(main) == 'error: no such workdir; name another'

    def broken(*_):
        raise ZeroDivisionError  # a fault of the program: its traceback is wanted

    with pytest.raises(ZeroDivisionError):
        run(broken)
