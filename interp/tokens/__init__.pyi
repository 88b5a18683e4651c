from . import sequences as sequences
from .token_rows import TokenRows as TokenRows
from .token_rows import open_token_rows as open_token_rows
from .token_rows import token_mask as token_mask
from .token_rows import verify_token_rows as verify_token_rows
from .token_rows import write_token_rows as write_token_rows
