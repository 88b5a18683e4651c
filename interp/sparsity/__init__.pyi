from .activation_sparsity import Nonzeros as Nonzeros
from .activation_sparsity import Sparsity as Sparsity
from .activation_sparsity import nonzeros as nonzeros
from .activation_sparsity import ppl_sparsity as ppl_sparsity
from .activation_sparsity import sparsity_at as sparsity_at
from .laws import fit_activation_ratio as fit_activation_ratio
from .other_rules import kept_at_perplexity as kept_at_perplexity
from .over_training import sparsity_over_training as sparsity_over_training
