"The import path `gte_nb.encoder`, for what is in `gte_nb.model.encoder`."
from .model.encoder import *
