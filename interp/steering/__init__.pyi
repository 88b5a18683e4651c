from .contrast_vectors import Contrast as Contrast
from .contrast_vectors import contrast as contrast
from .edits import steer as steer
from .edits import steer_residual as steer_residual
from .effects import SideEffects as SideEffects
from .effects import side_effects as side_effects
