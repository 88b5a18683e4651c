from .policy import PolicyConfig as PolicyConfig
from .policy import VLAPolicy as VLAPolicy
from .policy import load_policy as load_policy
