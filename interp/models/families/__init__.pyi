from .family import Family as Family
from .family import Latent as Latent
from .family import Mixture as Mixture
from .table import COMPARED_IN_ALL as COMPARED_IN_ALL
from .table import FAMILIES as FAMILIES
from .table import declared as declared
from .table import family_of as family_of
