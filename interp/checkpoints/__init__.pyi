from .schedules import PYTHIA_STEPS as PYTHIA_STEPS
from .schedules import choose_steps as choose_steps
from .sources import Checkpoint as Checkpoint
from .sources import FolderSource as FolderSource
from .sources import HubSource as HubSource
from .sources import MissingCheckpoint as MissingCheckpoint
from .sources import open_source as open_source
