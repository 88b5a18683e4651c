from .clustering import Facet as Facet
from .clustering import Facets as Facets
from .clustering import facets as facets
from .unit_contexts import UnitContexts as UnitContexts
from .unit_contexts import contexts_of as contexts_of
