from .split.decomposition import Decomposition as Decomposition
from .split.decomposition import ErrorSplit as ErrorSplit
from .split.decomposition import Figures as Figures
from .split.decomposition import decompose as decompose
from .split.decomposition import split_error as split_error
