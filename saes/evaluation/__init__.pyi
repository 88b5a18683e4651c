from .places_report import PlacesReport as PlacesReport
from .places_report import evaluate_places as evaluate_places
from .replacement import replacement_logits as replacement_logits
from .report import Report as Report
from .report import evaluate as evaluate
from .token_table import TokenTable as TokenTable
from .token_table import measure_tokens as measure_tokens
