from .reading import read_neuronpedia as read_neuronpedia
from .writing import FileNode as FileNode
from .writing import file_of as file_of
from .writing import node_id as node_id
from .writing import pair_number as pair_number
from .writing import to_neuronpedia as to_neuronpedia
from .writing import unpaired as unpaired
from .writing import write_neuronpedia as write_neuronpedia
