from .anatomy import Anatomy as Anatomy
from .anatomy import Block as Block
from .anatomy import anatomy_of as anatomy_of
