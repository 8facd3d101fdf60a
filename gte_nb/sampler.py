"The import path `gte_nb.sampler`, for what is in `gte_nb.data.sampler` and `gte_nb.data.permutation`."
from .data.permutation import *
from .data.sampler import *
