"False negatives: what a margin or a guide that does not fit gets, and how a guide reaches the loss."
import os

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import pytest
import torch

from gte_nb.data.batches import Batch
from gte_nb.data.files import from_files
from gte_nb.data.tokens import train_tokenizer
from gte_nb.losses import contrastive_loss, improved_contrastive_loss
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import StaticEncoder
from gte_nb.model.folders import Settings
from gte_nb.training.command import gte_pretrain
from gte_nb.training.gradient_cache import backward
from gte_nb.training.guide import guide_vectors, load_guide
from gte_nb.training.loop import with_vectors
from gte_nb.training.recipes import RECIPES
from gte_nb.training.stages import run_stage

GENERATOR = torch.Generator().manual_seed(0)
def noise(*shape): return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)
Q, D, H = noise(4, 6), noise(4, 6), noise(4, 2, 6)
GUIDE, NEGATIVES = (noise(4, 3), noise(4, 3)), noise(4, 2, 3)
def zero_at(vectors, row, value=0.):
    changed = vectors.clone()
    changed[row] = value
    return changed

REFUSED = [ # sentence, further arguments
    ('leave_out_margin is -0.1', dict(leave_out_margin=-0.1)),
    ('leave_out_margin is 2.5', dict(leave_out_margin=2.5)),
    ('leave_out_margin is nan', dict(leave_out_margin=nan)),
    ("leave_out_margin is '0.1'; give a cosine from 0 to 2", dict(leave_out_margin='0.1')),
    ('leave_out_margin is True', dict(leave_out_margin=True)),
    ('guide is ndarray, ndarray; give a tuple of tensors of floating-point numbers (torch.from_numpy makes '
     'one of an array), for this batch queries, documents', dict(guide=(np.zeros((4, 3)),)*2)),
    ('guide is torch.float64, torch.int32; give a tuple of tensors', dict(guide=(GUIDE[0], GUIDE[1].int()))),
    ('guide is torch.float64; give a tuple of tensors', dict(guide=torch.stack(GUIDE))),
    ('guide is str; give a tuple of tensors', dict(guide='all-MiniLM-L6-v2')),
    ('guide has 1 tensors of vectors, and this batch needs 2', dict(guide=GUIDE[:1])),
    ('guide has 0 tensors', dict(guide=())),
    ('and this batch needs 3: of its queries, of its documents, of its hard negatives',
     dict(guide=GUIDE, hard_negatives=H)),
    ('and this batch needs 2', dict(guide=(*GUIDE, NEGATIVES))),
    ('documents of shape (3, 3), and this batch needs (4, 3)', dict(guide=(GUIDE[0], GUIDE[1][:3]))),
    ('documents of shape (4, 2)', dict(guide=(GUIDE[0], GUIDE[1][:, :2]))),
    ('hard negatives of shape (4, 3)', dict(guide=(*GUIDE, NEGATIVES[:, 0]), hard_negatives=H)),
    ('a zero or not finite vector among its documents', dict(guide=(GUIDE[0], zero_at(GUIDE[1], 2)))),
    ('a zero or not finite vector among its queries', dict(guide=(zero_at(GUIDE[0], 1, nan), GUIDE[1]))),
]

@pytest.mark.parametrize('sentence, more', REFUSED, ids=[sentence for sentence, _ in REFUSED])
@pytest.mark.parametrize('tile_size', (None, 3))
def test_refused(sentence, more, tile_size):
    with pytest.raises(ValueError) as error: improved_contrastive_loss(Q, D, tile_size=tile_size, **more)
    assert sentence in str(error.value) and '\n' not in str(error.value)

def test_a_copy_is_left_out_at_margin_0_however_it_rounds():
    "Rows 2 and 3 hold the documents of rows 0 and 1: they have no say in the loss of these rows."
    queries, documents = noise(4, 6).float(), noise(2, 6).float().repeat(2, 1)
    def one_way(tile_size, **more):
        return contrastive_loss(queries, documents, 0.1, rung='vanilla', tile_size=tile_size, **more)
    everything = torch.ones(4, 4, dtype=torch.bool).triu(1) | torch.ones(4, 4, dtype=torch.bool).tril(-1)
    cosines = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(documents).T
    nearer = everything & (cosines >= cosines.diagonal()[:, None] - 1e-6)
    assert nearer[0, 2] and nearer[1, 3] and nearer[2, 0] and nearer[3, 1]
    logits = (cosines / 0.1).masked_fill(nearer, -torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    for tile_size in (None, 1, 3):
        for judged in (dict(leave_out_margin=0.), dict(guide=(queries, documents))):
            # a difference of numbers near 10, each of which single precision rounds by up to 5e-7
            assert one_way(tile_size, **judged).item() == pytest.approx(expected.item(), abs=2e-6)

def test_an_absent_negative_needs_no_vector_of_the_guide():
    mask = torch.tensor([[True, False]]*4)
    holes = zero_at(NEGATIVES, (slice(None), 1), nan)
    value = improved_contrastive_loss(Q, D, 0.1, H, mask, guide=(*GUIDE, holes))
    assert value == improved_contrastive_loss(Q, D, 0.1, H[:, :1], guide=(*GUIDE, NEGATIVES[:, :1]))

# a model and a guide whose tokenizers differ
TEXTS = ['how to read a file', 'open it and call read', 'how to sort rows', 'call sorted with a key',
         'how to close a file', 'leave the with block', 'how to join two paths', 'a slash puts them together']

def static(seed=0, width=8, texts=TEXTS, settings=None):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts, 60)
    return Embedder(StaticEncoder(tokenizer.get_vocab_size(), width), tokenizer, 32, settings)

def test_a_batch_hands_its_guide_to_the_loss():
    model, guide = static(), static(1, 5)
    def batch(embedder):
        ids = embedder.tokenize(TEXTS)
        return Batch(ids[0::2], ids[1::2], [*ids[1:4], ids[0][:0]])       # the last row has no negative
    read, vectors = batch(model), guide_vectors(guide, batch(guide))
    assert [tuple(part.shape) for part in vectors] == [(4, 5), (4, 5), (4, 1, 5)] and not vectors[2][3].any()
    read.guide = vectors
    of_model = guide_vectors(model, batch(model))
    mask, ids = torch.tensor([[True]]*3 + [[False]]), None
    expected = improved_contrastive_loss(*of_model[:2], 0.1, of_model[2], mask, ids, guide=vectors)
    value = backward(model, read, temperature=0.1, mask_duplicates=False)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    without = replace(read, negatives=None)                               # the guide's own have no use then
    expected = improved_contrastive_loss(*of_model[:2], 0.1, guide=vectors[:2], leave_out_margin=0.2)
    value = backward(model, without, temperature=0.1, mask_duplicates=False, leave_out_margin=0.2)
    assert value == pytest.approx(expected.item(), rel=1e-6)

def test_a_row_that_is_left_out_takes_its_guide_along():
    model, ids = static(), static().tokenize(TEXTS)
    batch = Batch([ids[0], ids[2][:0], ids[4]], ids[1::2][:3], guide=(torch.arange(3.)[:, None],)*2)
    kept, _ = with_vectors(model, batch)
    assert len(kept) == 2 and [part.flatten().tolist() for part in kept.guide] == [[0, 2]]*2

@pytest.fixture
def corpus(tmp_path):
    pd.DataFrame({'query': TEXTS[0::2]*4, 'document': TEXTS[1::2]*4}).to_csv(tmp_path/'rows.csv', index=False)
    return tmp_path/'rows.csv'

def test_a_stage_with_a_guide(corpus, tmp_path):
    "It says which guide it was, and goes on with no other."
    static(1, 5).save(tmp_path/'guide')
    recipe = replace(RECIPES['laptop-scratch'][0], sources=('rows',), vocab_size=60, hidden_size=8,
        batch_size=4, steps=2, learning_rate=1e-3, guide=str(tmp_path/'guide'), clean=False)
    rows, folder = from_files(corpus), tmp_path/'run'
    guided = run_stage(recipe, folder, rows, quiet=True)
    plain = run_stage(replace(recipe, guide=None), tmp_path/'plain', rows, quiet=True)
    assert guided['loss'].iloc[0] < plain['loss'].iloc[0]                 # some competitors are left out
    static(2, 5).save(tmp_path/'guide')
    with pytest.raises(ValueError, match='guide'): run_stage(recipe, folder, rows, quiet=True)

@pytest.mark.parametrize('words, sentence', [
    (['--leave_out_margin', '-1'], 'error: leave_out_margin is -1.0; give a cosine from 0 to 2'),
    (['--guide', 'FOLDER'], 'holds no model'),
])
def test_commands(words, sentence, corpus, tmp_path, capsys):
    "What the command line says of a margin and a guide reaches the run; what is wrong is one sentence."
    common = ['--recipe', 'laptop-scratch', '--corpus', str(corpus), '--vocab_size', '60', '--steps', '1',
              '--hidden_size', '8', '--batch_size', '4', '--gauge_every', '0', '--out', str(tmp_path/'run')]
    with pytest.raises(SystemExit) as stop:
        gte_pretrain([*common, *(str(tmp_path) if word == 'FOLDER' else word for word in words)])
    assert stop.value.code == 1 and sentence in capsys.readouterr().err

def test_a_guide_with_prompts_is_refused(tmp_path):
    static(settings=Settings(prompts={'query': 'find: '})).save(tmp_path)
    with pytest.raises(ValueError, match="puts 'find: ' before its texts"): load_guide(str(tmp_path))
