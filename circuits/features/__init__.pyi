from .comparison import FeatureComparison as FeatureComparison
from .comparison import compare_features as compare_features
from .edges import feature_edges as feature_edges
from .faithfulness import FeatureEvaluator as FeatureEvaluator
from .faithfulness import FeatureFaithfulness as FeatureFaithfulness
