from .planted import Planted as Planted
from .planted import plant as plant
from .recovery import recovery as recovery
