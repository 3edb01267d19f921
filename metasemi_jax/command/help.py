"""What --help says of a config's fields: their values, and the comments of configs/default.py."""

import ast
import io
import shutil
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metasemi_jax.command.config_file import load_config

COLUMN = 34  # where the comments begin


def config_help(name: str) -> str:
    """Networks, methods and fields, for a command with `--config`.

    Args:
      name: 'FILE.py' or 'FILE.py:ARGUMENT', whose values are shown; default.py lies beside it.
    """
    # These import JAX, which takes a second.
    from metasemi_jax.config.form import flatten
    from metasemi_jax.methods import METHODS
    from metasemi_jax.models import MODELS

    values = flatten(load_config(name))
    comments = field_comments(Path(name.partition(':')[0]).with_name('default.py'))
    lines = [
        _wrapped('networks (model.name): ', ', '.join(MODELS)),
        _wrapped('methods (method.name): ', ', '.join(METHODS)),
        '',
        f'Fields, each changed by --config.FIELD=VALUE, with their values in {name}:',
        '',
    ]
    groups: dict[str, list[str]] = {}
    for field in sorted(values, key=[*comments, *sorted(values)].index):
        line = _field_line(field, values[field], comments.get(field, ''))
        groups.setdefault(field.rpartition('.')[0], []).append(line)
    lines.append('\n\n'.join('\n'.join(group) for group in groups.values()))
    return '\n'.join(lines)


def field_comments(path: Path) -> dict[str, str]:
    """'data.pad' -> the comment on its line, or those above it, in a file like configs/default.py."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding='utf-8')
    comments = {
        token.start[0]: (token.string.lstrip('# '), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    return {name: _comment(node, comments) for name, node in _assignments(ast.parse(text))}


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.Assign]]:
    """(field, statement) for each `config.group.field = value`, `data = config.data` understood."""
    prefixes = {'config': ''}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        fields = [target for target in node.targets if isinstance(target, ast.Attribute)]
        if len(fields) != 1 or not isinstance(fields[0].value, ast.Name):
            continue
        group, name = fields[0].value.id, fields[0].attr
        if group in prefixes:
            yield prefixes[group] + name, node
        for target in node.targets:
            if isinstance(target, ast.Name):
                prefixes[target.id] = f'{name}.'


def _comment(node: ast.Assign, comments: dict[int, tuple[str, bool]]) -> str:
    if node.end_lineno in comments:
        return comments[node.end_lineno][0]
    above, line = [], node.lineno - 1
    while comments.get(line, ('', False))[1]:
        above.insert(0, comments[line][0])
        line -= 1
    return ' '.join(above)


def _field_line(field: str, value: Any, comment: str) -> str:
    shown = ','.join(map(str, value)) if isinstance(value, list) else value
    head = f'  {field}={shown}'
    if not comment:
        return head
    if len(head) >= COLUMN:
        return f'{head}\n' + _wrapped(' ' * COLUMN, comment)
    return _wrapped(head.ljust(COLUMN), comment)


def _wrapped(head: str, text: str) -> str:
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    indent = ' ' * min(len(head), COLUMN)
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=indent)
