"The import path `gte_nb.sampler`, for what is in `gte_nb.data.sampler`."
from .data.sampler import *
