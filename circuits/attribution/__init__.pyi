from .dispatch import attribute as attribute
from .edges import attribute_edges as attribute_edges
from .features import attribute_features as attribute_features
