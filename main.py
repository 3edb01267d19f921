"""Train MetaSemi, or another method, in the folder of a run.

python main.py --config=configs/digits.py --workdir=runs/digits
python main.py --config=configs/cifar10.py --config.method.name=fixmatch --workdir=runs/fixmatch
"""

import sys

from metasemi_jax.command.start import begin

if __name__ == '__main__':
    # Ahead of all imports that take time: a signal may come meanwhile.
    begin()

from metasemi_jax.command.train import main

if __name__ == '__main__':
    main(sys.argv)
