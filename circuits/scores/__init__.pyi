from .edges import EdgeScores as EdgeScores
from .nodes import Scores as Scores
