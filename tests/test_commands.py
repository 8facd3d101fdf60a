"""The recipes: each builds, trains and saves, shrunk to two steps of one layer on a few rows."""
import os
from dataclasses import replace

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import pytest

from gte_nb.data.mining import open_corpus
from gte_nb.training.recipes import RECIPES
from gte_nb.training.stages import run_stage

VERBS = 'open', 'close', 'read', 'write', 'copy', 'move', 'sort', 'join'

@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    lines = [f'how to {verb},def {verb}{i}(file): return {verb}' for i in range(4) for verb in VERBS]
    (tmp_path/'rows.csv').write_text('\n'.join(['query,document', *lines]))
    return open_corpus([str(tmp_path/'rows.csv')])

def shrunk(recipe):
    start = {} if recipe.static else dict(start='scratch', layers=1, hidden_size=64)
    return replace(recipe, **start, vocab_size=200, query_tokens=16, document_tokens=16, batch_size=8,
        steps=2,
                   sources=(), precision='fp32', keep_layers=())

@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_builds_trains_and_saves(name, corpus, tmp_path):
    init = None
    for recipe in RECIPES[name]:
        out = tmp_path/str(recipe.stage)
        assert len(run_stage(shrunk(recipe), out, corpus, init=init, quiet=True)) == 2
        assert (out/'model.safetensors').exists() and (out/'README.md').exists()
        init = out
