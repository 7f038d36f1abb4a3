from .graphs import Graphs as Graphs
