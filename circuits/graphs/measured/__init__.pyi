from .measurement import VERDICTS as VERDICTS
from .measurement import Agreement as Agreement
from .measurement import Measurement as Measurement
from .measurement import Replication as Replication
from .measuring import measure as measure
from .prompts import LEAST_PROMPTS as LEAST_PROMPTS
from .prompts import verdict as verdict
