from .matrix_gains import MATRICES as MATRICES
from .matrix_gains import MatrixGain as MatrixGain
from .matrix_gains import gains as gains
from .matrix_gains import measurement as measurement
from .scaling import Exponent as Exponent
from .scaling import steady_state_rms as steady_state_rms
from .scaling import width_exponent as width_exponent
from .singular_values import top_singular_values as top_singular_values
