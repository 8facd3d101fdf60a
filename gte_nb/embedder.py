"The import path `gte_nb.embedder`, for what is in `gte_nb.model.embedder` and `gte_nb.data.tokens`."
from .data.tokens import *
from .model.embedder import *
from .model.weights import UnsupportedModel as UnsupportedModel
