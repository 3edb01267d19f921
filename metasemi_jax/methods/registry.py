"""The methods of this package, by name."""

from metasemi_jax.methods.fixmatch import fixmatch
from metasemi_jax.methods.flexmatch import flexmatch
from metasemi_jax.methods.freematch import freematch
from metasemi_jax.methods.ict import ict
from metasemi_jax.methods.mean_teacher import mean_teacher
from metasemi_jax.methods.metasemi import metasemi
from metasemi_jax.methods.mixmatch import mixmatch
from metasemi_jax.methods.pi_model import pi_model
from metasemi_jax.methods.pseudo_label import pseudo_label
from metasemi_jax.methods.softmatch import softmatch
from metasemi_jax.methods.supervised import supervised
from metasemi_jax.methods.temporal_ensembling import temporal_ensembling
from metasemi_jax.methods.uda import uda
from metasemi_jax.methods.vat import vat

METHODS = {
    'supervised': supervised,
    'pseudo_label': pseudo_label,
    'pi_model': pi_model,
    'temporal_ensembling': temporal_ensembling,
    'mean_teacher': mean_teacher,
    'vat': vat,
    'ict': ict,
    'mixmatch': mixmatch,
    'uda': uda,
    'fixmatch': fixmatch,
    'flexmatch': flexmatch,
    'freematch': freematch,
    'softmatch': softmatch,
    'metasemi': metasemi,
}
