"""Massive activations: single entries of the residual stream that are thousands of times its median.

A hidden state is the residual stream after a block (before the final norm); its largest magnitudes and its median are
taken over all positions and dimensions of one sequence (Sun et al. 2024, arXiv 2402.17762; Gallego-Feliciano et al.
2025, arXiv 2508.03616). Blocks and positions are counted from 0.

``layer_stats`` measures, ``detect`` applies Sun et al.'s rule, ``attention_sinks`` and ``find_super_weights`` look at
what comes with them, ``intervene`` overwrites them, ``sweep`` follows them through training.
"""

from interp.massive.attention import SinkStats as SinkStats
from interp.massive.attention import attention_sinks as attention_sinks
from interp.massive.detection import Detection as Detection
from interp.massive.detection import MassiveActivation as MassiveActivation
from interp.massive.detection import detect as detect
from interp.massive.intervention import Effect as Effect
from interp.massive.intervention import Entry as Entry
from interp.massive.intervention import Intervention as Intervention
from interp.massive.intervention import intervene as intervene
from interp.massive.stats import LayerStats as LayerStats
from interp.massive.stats import layer_stats as layer_stats
from interp.massive.super_weights import SuperWeight as SuperWeight
from interp.massive.super_weights import find_super_weights as find_super_weights
from interp.massive.super_weights import zeroed as zeroed
from interp.massive.sweep_table import SweepTable as SweepTable
from interp.massive.training_sweep import SweepRun as SweepRun
from interp.massive.training_sweep import sweep as sweep
