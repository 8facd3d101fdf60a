"The import path `gte_nb.embedder`, for what is in `gte_nb.model.embedder`."
from .model.embedder import *
