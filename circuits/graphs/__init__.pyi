from .building import attribution_graph as attribution_graph
from .graph import AttributionGraph as AttributionGraph
from .graph import GraphNode as GraphNode
from .graph import PrunedGraph as PrunedGraph
from .sources import fit_error_split as fit_error_split
from .targets import Difference as Difference
from .targets import Direction as Direction
