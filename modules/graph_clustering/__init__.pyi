from .module import GraphClustering as GraphClustering
