from .decoder_rows import row_overlap as row_overlap
from .measuring import measure_norms as measure_norms
