from .emergence_curve import EmergenceCurve as EmergenceCurve
from .fitting import PARAMETERS as PARAMETERS
from .fitting import RivalFit as RivalFit
from .fitting import Trajectory as Trajectory
from .fitting import fit as fit
from .fitting import fit_all as fit_all
