from . import explorer as explorer
from . import features as features
from . import graphs as graphs
from . import mib as mib
from . import rules as rules
from . import tasks as tasks
from .attribution.dispatch import attribute as attribute
from .attribution.edges import attribute_edges as attribute_edges
from .attribution.features import FeatureCircuit as FeatureCircuit
from .attribution.features import attribute_features as attribute_features
from .circuit import Circuit as Circuit
from .comparison import Comparison as Comparison
from .comparison import compare as compare
from .draw import circuit_graph as circuit_graph
from .draw import heat_map as heat_map
from .explorer.attribution import GraphExplorer as GraphExplorer
from .explorer.explorer import Explorer as Explorer
from .faithfulness import Evaluator as Evaluator
from .features.comparison import compare_features as compare_features
from .features.edges import feature_edges as feature_edges
from .features.faithfulness import FeatureEvaluator as FeatureEvaluator
from .graphs.building import attribution_graph as attribution_graph
from .graphs.graph import AttributionGraph as AttributionGraph
from .scores.edges import EdgeScores as EdgeScores
from .scores.nodes import Scores as Scores
from .tasks.task import Task as Task

__version__: str
