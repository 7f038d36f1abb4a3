from .adjacency import normalized_adjacency as normalized_adjacency
from .adjacency import sparse_matrix as sparse_matrix
from .adjacency import symmetrized as symmetrized
from .neighbors import neighbor_graph as neighbor_graph
from .powers import GraphTooDenseError as GraphTooDenseError
from .powers import adjacency_powers as adjacency_powers
