"""Which files below a run are its own, so that no command writes over them."""

import os
import re
from pathlib import Path

from metasemi_jax.errors import UserError
from metasemi_jax.workdir.run_files import RunFiles

LOG = 'log.txt'  # what a run of a sweep has printed
PREDICTED = '.predictions.json'  # which files `predict` has written, and their contents' hashes
# Events of TensorBoard, and the results of a run that went on with more steps.
NUMBERED = re.compile(r'events\.|results_\d+\.json$')
# Names of a run's other files.
KEPT = {'.lock', LOG, PREDICTED} | {path.name for name, path in vars(RunFiles('.')).items() if name != 'path'}


def check_no_run_file(output: str | os.PathLike) -> None:
    """Refuse an `output` in the place of a file that a run or a sweep keeps of itself, there or not yet."""
    path = Path(os.path.realpath(output))
    for folder in path.parents:
        first = path.relative_to(folder).parts[0]
        in_run = (folder / 'config.json').is_file() and (first in KEPT or NUMBERED.match(first))
        if in_run or ((folder / 'sweep.json').is_file() and path == folder / 'sweep.json'):
            raise UserError(f'output={output} is a file of the run in {folder}; name another file')
