from .areas import mib_areas as mib_areas
from .circuit_files import read_mib as read_mib
from .circuit_files import write_mib as write_mib
from .ungrouping import ungroup as ungroup
