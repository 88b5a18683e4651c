from .report import Report as Report
from .report import evaluate as evaluate
from .token_table import TokenTable as TokenTable
from .token_table import measure_tokens as measure_tokens
