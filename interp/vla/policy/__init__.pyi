from . import tokenizer as tokenizer
from . import words as words
from .policy import PolicyConfig as PolicyConfig
from .policy import VLAPolicy as VLAPolicy
from .policy import load_policy as load_policy
