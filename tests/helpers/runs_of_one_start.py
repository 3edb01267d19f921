"""Several runs of `main.py` in one process of two: to start a process takes longer than a short run.

python tests/helpers/runs_of_one_start.py HOST:PORT PROCESS_ID HOW_THEY_ENDED.json < FLAGS_OF_EACH_RUN.json

The last run ends the process as it would end `main.py`, and prints what that prints.
"""

import json
import signal
import sys
from pathlib import Path

from metasemi_jax.command.start import begin
from metasemi_jax.distributed import multi_host
from small_runs import main_of, run_here


def how_it_ends(flags):
    run = run_here(*flags)
    # A command that fails has some seconds to end.
    signal.alarm(0)
    return {'code': run.returncode, 'out': run.stdout, 'err': run.stderr}


def main(coordinator, process_id, path):
    begin()
    multi_host.join_processes(coordinator, 2, int(process_id))
    multi_host.join_processes = lambda *again: None
    *runs, last = json.load(sys.stdin)
    Path(path).write_text(json.dumps([how_it_ends(flags) for flags in runs]))
    main_of('main')(['main.py', *last])


if __name__ == '__main__':
    main(*sys.argv[1:])
