from . import policy as policy
from . import simulator as simulator
from . import study as study
