from .config import TrainConfig as TrainConfig
from .finetune_config import FinetuneConfig as FinetuneConfig
from .finetuning import finetune as finetune
from .loop import initial_state as initial_state
from .loop import train as train
from .loop import train_many as train_many
from .loop import train_step as train_step
