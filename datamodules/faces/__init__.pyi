from .bin_file import read_bin as read_bin
from .faces import Faces as Faces
from .identities import Identities as Identities
from .pair_files import read_lfw_pairs as read_lfw_pairs
from .pair_files import read_pair_table as read_pair_table
from .record_packing import pack_identities as pack_identities
