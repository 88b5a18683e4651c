from .activation_store import ActivationStore as ActivationStore
from .activation_store import TokenColumns as TokenColumns
from .activation_store import read_manifest as read_manifest
from .activation_store import verify as verify
from .caching import cache_activations as cache_activations
from .live import LiveActivations as LiveActivations
from .masks import Masks as Masks
