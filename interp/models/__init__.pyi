from .fingerprint import weights_fingerprint as weights_fingerprint
from .loading import load_hf_model as load_hf_model
from .loading import load_model as load_model
from .source import ModelSource as ModelSource
from .source import context_length as context_length
from .source import require_raw_weights as require_raw_weights
from .source import source_of as source_of
