from . import page as page
from .changes import change_of as change_of
from .parts import measurements as measurements
from .report import dynamics_of as dynamics_of
