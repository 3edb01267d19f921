"""In the place of `metasemi_jax.sweep.run`: ends at once, as its seed says, to test the sweep around it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

workdir = Path(sys.argv[1])
config = json.loads(sys.stdin.readline())
seed = config['seed']
(workdir / 'began').write_text(str(time.monotonic()))
if seed == 1:
    print('first step after 1.0 s')
    sys.exit('error: there is no such thing; use another')
elif seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
elif seed == 3:
    raise ZeroDivisionError('in the middle')
elif seed == 9:
    sys.stdin.read()  # until the sweep stops it
    sys.exit('stopped')
time.sleep(0.3)
(workdir / 'results.json').write_text(json.dumps({'steps': 1, 'test_error_last': 10.0 + seed}))
(workdir / 'ended').write_text(str(time.monotonic()))
