"The GTE paper as a book that runs: what most users need, imported when it is asked for."
__version__ = "0.1.0"

import os, sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:                      # what editors and type checkers read; the table below is what runs
    from .data.batches import Batch
    from .data.corpus import Corpus
    from .data.files import from_files
    from .data.mining import mine, open_corpus
    from .data.registry import load, registry
    from .data.sampler import MixtureSampler, mixing_probs
    from .data.sources import Sources
    from .evaluation.evaluate import evaluate
    from .evaluation.own_tasks import read_task
    from .evaluation.tasks import find_tasks
    from .losses import contrastive_loss, improved_contrastive_loss, info_nce, symmetric_info_nce
    from .model.bm25 import BM25
    from .model.embedder import Embedder
    from .model.encoder import Encoder, EncoderConfig, StaticEncoder
    from .search_index import SearchIndex
    from .training.distil_command import Distillation, run_distillation
    from .training.gradient_cache import backward
    from .training.loop import train
    from .training.merging import merge
    from .training.negatives import mine_hard_negatives
    from .training.recipes import RECIPES, Recipe
    from .training.short_vectors import matryoshka_loss
    from .training.stages import run_stage

_HOMES = {
    "data.batches": ("Batch",),
    "data.corpus": ("Corpus",),
    "data.files": ("from_files",),
    "data.mining": ("mine", "open_corpus"),
    "data.registry": ("load", "registry"),
    "data.sampler": ("MixtureSampler", "mixing_probs"),
    "data.sources": ("Sources",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.own_tasks": ("read_task",),
    "evaluation.tasks": ("find_tasks",),
    "losses": ("contrastive_loss", "improved_contrastive_loss", "info_nce", "symmetric_info_nce"),
    "model.bm25": ("BM25",),
    "model.embedder": ("Embedder",),
    "model.encoder": ("Encoder", "EncoderConfig", "StaticEncoder"),
    "search_index": ("SearchIndex",),
    "training.distil_command": ("Distillation", "run_distillation"),
    "training.gradient_cache": ("backward",),
    "training.loop": ("train",),
    "training.merging": ("merge",),
    "training.negatives": ("mine_hard_negatives",),
    "training.recipes": ("RECIPES", "Recipe"),
    "training.short_vectors": ("matryoshka_loss",),
    "training.stages": ("run_stage",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'gte_nb' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__(): return sorted({*globals(), *_HOME})


# The threads of NumPy's OpenBLAS wait actively, from the import on and after each product: a third of the processor
# time of `gte_search --help`. In our commands they sleep, unless the user has decided; other programs stay as they are.
if os.path.basename("".join(sys.argv[:1])).startswith("gte_"): os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
