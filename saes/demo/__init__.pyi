from .demo import DemoResult as DemoResult
from .demo import run_demo as run_demo
