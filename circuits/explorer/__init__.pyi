from .attribution import GraphExplorer as GraphExplorer
from .explorer import Explorer as Explorer
