"""The instrument: gradients taken apart along the lines of the papers' equations.

A library first: build a model from :mod:`tinyflow.nn` whose blocks fork their input and
mark their sum, run :func:`probe` on one batch, and ask :func:`block_terms`,
:func:`dense_terms`, :func:`spectrum` or :func:`measure_branch`; :func:`table` and
:func:`figure` show what they found. ``analyze.py`` is its command line.
"""

from tinyflow.flow.blocks import Block, Terms, block_terms, find_blocks, measure, split
from tinyflow.flow.counterfactual import Counterfactual, counterfactual, measure_branch
from tinyflow.flow.dense import DenseBlock, dense_terms
from tinyflow.flow.dial import Dial, dial, dials
from tinyflow.flow.importance import Importance, agreement, importance
from tinyflow.flow.paths import Spectrum, spectrum
from tinyflow.flow.probe import TOLERANCE, FlowError, Probe, probe
from tinyflow.flow.samples import Samples, block_samples, per_sample
from tinyflow.flow.show.shown import figure, table

__all__ = [
    "TOLERANCE",
    "Block",
    "Counterfactual",
    "DenseBlock",
    "Dial",
    "FlowError",
    "Importance",
    "Probe",
    "Samples",
    "Spectrum",
    "Terms",
    "agreement",
    "block_samples",
    "block_terms",
    "counterfactual",
    "dense_terms",
    "dial",
    "dials",
    "figure",
    "find_blocks",
    "importance",
    "measure",
    "measure_branch",
    "per_sample",
    "probe",
    "spectrum",
    "split",
    "table",
]


def __dir__() -> list[str]:
    return __all__
