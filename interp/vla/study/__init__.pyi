from . import film as film
from . import rollouts as rollouts
from .rollouts import Arena as Arena
from .rollouts import Rollout as Rollout
from .rollouts import arena_for as arena_for
from .study import Options as Options
from .study import Study as Study
