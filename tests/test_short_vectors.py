"Short vectors: the sum is the peer's, the folder says what was trained, what is not there is refused."
import os, warnings

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import numpy as np
import pytest
import torch

from gte_nb.data.batches import Batch
from gte_nb.data.tokens import train_tokenizer
from gte_nb.losses import LOSSES, improved_contrastive_loss
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import Encoder, EncoderConfig, StaticEncoder
from gte_nb.model.folders import Settings
from gte_nb.training.checkpoints import described
from gte_nb.training.command import gte_pretrain
from gte_nb.training.gradient_cache import backward
from gte_nb.training.loop import Settings as RunSettings, train
from gte_nb.training.recipes import RECIPES, Recipe
from gte_nb.training.short_vectors import matryoshka_loss

PAIRS = [(f'how do I {verb} a {noun}', f'{verb}_{noun} takes the {noun} that it is to {verb}')
    for verb in ('open', 'close', 'sort') for noun in ('file', 'table', 'list', 'stream')]
QUERIES, DOCUMENTS = map(list, zip(*PAIRS))
TOKENIZER = train_tokenizer([text for pair in PAIRS for text in pair], 100)
DIMENSIONS, WEIGHTS = (2, 5, 8), (1., 0.5, 2.)

def model(static=True, **settings):
    torch.manual_seed(0)
    encoder = StaticEncoder(100, 8) if static else Encoder(EncoderConfig(100, hidden_size=8,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, hidden_dropout_prob=0.,
        attention_probs_dropout_prob=0.))
    return Embedder(encoder, TOKENIZER, 32, Settings(**settings))

def batch_of(embedder): return Batch(embedder.tokenize(QUERIES), embedder.tokenize(DOCUMENTS))

def gradient(embedder):
    return torch.cat([p.grad.flatten() for p in embedder.encoder.parameters() if p.grad is not None])

def naive(queries, documents, **more):
    return sum(weight * improved_contrastive_loss(queries[:, :width], documents[:, :width], 0.05,
        **{name: value[..., :width] if name == 'hard_negatives' else value for name, value in more.items()})
        for width, weight in zip(DIMENSIONS, WEIGHTS))

def test_the_sum_and_its_gradient_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    ours = model()
    table = ours.encoder.embedding.weight.detach().clone()
    theirs = SentenceTransformer(modules=[StaticEmbedding(TOKENIZER, table.numpy())], device='cpu')
    loss = MultipleNegativesRankingLoss(theirs, scale=20, partition_mode='joint',
        directions=('query_to_doc', 'query_to_query', 'doc_to_query', 'doc_to_doc'))
    loss = MatryoshkaLoss(theirs, loss, DIMENSIONS, WEIGHTS)
    expected = loss([theirs.preprocess(texts) for texts in (QUERIES, DOCUMENTS)], None)
    expected.backward()
    vectors = [ours.embed(ours.tokenize(texts)) for texts in (QUERIES, DOCUMENTS)]
    value = matryoshka_loss(improved_contrastive_loss, DIMENSIONS, WEIGHTS)(*vectors, 0.05)
    value.backward()
    assert abs(value.item()/expected.item() - 1) < 1e-6
    wanted, = [p.grad for p in theirs.parameters()]
    assert (gradient(ours).view_as(wanted) - wanted).abs().max() < 1e-6 * wanted.abs().max()

@pytest.mark.parametrize('tile_size', [None, 5])
def test_hard_negatives_masks_and_tiles_are_summed_alike(tile_size):
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((12, 8), (12, 8), (12, 2, 8))]
    more = dict(hard_negative_mask=torch.rand(12, 2) > 0.3, ids=torch.randint(40, (12, 4)))
    def of(loss, **how):
        value = loss(inputs[0], inputs[1], hard_negatives=inputs[2], **more, **how)
        return [value, *torch.autograd.grad(value, inputs)]
    wrapped = matryoshka_loss(improved_contrastive_loss, DIMENSIONS, WEIGHTS)
    for ours, expected in zip(of(wrapped, temperature=0.05, tile_size=tile_size), of(naive)):
        assert torch.allclose(ours, expected, rtol=1e-12)

@pytest.mark.parametrize('loss', LOSSES)
def test_any_loss_and_its_whole_alone(loss):
    torch.manual_seed(0)
    vectors = torch.randn(2, 6, 8, dtype=torch.float64)
    assert torch.equal(matryoshka_loss(LOSSES[loss], [8])(*vectors), LOSSES[loss](*vectors))

@pytest.mark.parametrize('memory', [None, 0])
def test_the_gradient_cache_embeds_no_text_more_for_it(memory):
    embedder = model(static=False)
    embedder.encoder.double().train()
    batch, embed, texts = batch_of(embedder), embedder.embed, []
    vectors = embed([*batch.queries, *batch.documents])
    expected = sum(LOSSES['improved'](vectors[:12, :width], vectors[12:, :width], 0.05)
        for width in DIMENSIONS)
    expected.backward()
    wanted = gradient(embedder)
    counts = {}
    for dimensions in ((), DIMENSIONS):
        embedder.encoder.zero_grad(set_to_none=True)
        embedder.embed = lambda ids, *rest: texts.append(len(ids)) or embed(ids, *rest)
        texts.clear()
        # the whole is one of them, named or not
        value = backward(embedder, batch, temperature=0.05, memory=memory, mask_duplicates=False,
            dimensions=dimensions[:2])
        counts[dimensions] = sum(texts)
    assert abs(value - expected.item()) < 1e-12 * value and torch.allclose(gradient(embedder), wanted,
        rtol=1e-10)
    assert counts[()] == counts[DIMENSIONS]

def matryoshka(*dimensions, weights=None): return matryoshka_loss(LOSSES['improved'], dimensions, weights)

REFUSED = [ # sentence, what is called
    ('dimensions is empty', matryoshka),
    ('2 dimensions and 1 weights', lambda: matryoshka(2, 4, weights=(1,))),
    ('dimensions is 16; give a list of numbers, such as [64, 128]', lambda: matryoshka_loss(None, 16)),
    ("dimensions is '16'; give a list of numbers", lambda: matryoshka_loss(None, '16')),
    ("dimensions is ('2',); give a list of numbers", lambda: matryoshka_loss(None, ('2',))),
    ('weights is 2; give a list of numbers, such as [0.5, 1.]', lambda: matryoshka(2, weights=2)),
    ('names True, but a vector has 8', lambda: matryoshka(True)(*torch.randn(2, 6, 8))),
    ('names 9, but a vector has 8', lambda: matryoshka(4, 9)(*torch.randn(2, 6, 8))),
    ('names 9, but a vector has 8', lambda: backward(one := model(), batch_of(one), dimensions=[9])),
    ('names 0, but a vector has 8', lambda: model().encode(QUERIES, dimensions=0)),
    ('names 9, but a vector has 8', lambda: model().encode([], dimensions=9)),
    ("names '4', but a vector has 8", lambda: model().encode(QUERIES, dimensions='4')),
    ('names 5, but a vector has 4', lambda: model(truncate_dim=4).encode_query(QUERIES, dimensions=5)),
    ('names 2.5, but a vector has 8', lambda: list(model().encode_stream(QUERIES, dimensions=2.5))),
]

@pytest.mark.parametrize('sentence, call', REFUSED, ids=[sentence for sentence, _ in REFUSED])
def test_refused(sentence, call):
    with pytest.raises(ValueError) as error: call()
    assert sentence in str(error.value) and '\n' not in str(error.value)

def trained(folder, embedder=None, **how):
    embedder = embedder or model()
    train(embedder, lambda step: batch_of(embedder), folder, 2, 0.01, quiet=True, **how)
    return Embedder.load(folder)

def test_a_folder_says_what_was_trained_and_sentence_transformers_reads_it(tmp_path):
    from sentence_transformers import SentenceTransformer
    embedder = trained(tmp_path/'short', dimensions=(4, 2))
    assert embedder.settings.dimensions == (2, 4, 8)
    theirs = SentenceTransformer(str(tmp_path/'short'), device='cpu')
    expected = theirs.encode(QUERIES, truncate_dim=4, normalize_embeddings=True)
    short = embedder.encode(QUERIES, dimensions=4)
    assert np.abs(short - expected).max() < 1e-6 and np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    assert np.array_equal(embedder.encode_document(QUERIES, dimensions=4), short)
    raw = embedder.encode(QUERIES, normalize=False)
    assert np.array_equal(embedder.encode(QUERIES, normalize=False, dimensions=4), raw[:, :4])
    # a run that trains the whole alone has not trained them
    assert trained(tmp_path/'whole', embedder).settings.dimensions == ()

def test_what_was_not_trained_is_said_once(tmp_path):
    embedder = model(dimensions=(2, 4, 8))
    with pytest.warns(UserWarning, match='first 5 numbers of a vector were not trained') as said:
        for dimensions in (5, 4, 8, None, 5): embedder.encode(QUERIES, dimensions=dimensions)
    assert len(said) == 1
    with warnings.catch_warnings(action='error'): model().encode(QUERIES, dimensions=5)   # nobody knows

def test_runs_from_before_stay_the_runs_they_were():
    recipe = RECIPES['laptop'][0]
    for settings in (recipe, RunSettings(1, 0.1)): assert 'dimensions' not in described(settings)
    short = Recipe('short', 1, dimensions=(4, 8))
    assert described(short)['dimensions'] == short.settings['dimensions'] == (4, 8)

def test_a_command_trains_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'pairs.csv').write_text('query,document\n' + ''.join(f'{q},{d}\n' for q, d in PAIRS))
    words = ('--recipe laptop-scratch --corpus pairs.csv --vocab_size 80 --hidden_size 8 --batch_size 4 '
        '--steps 2 --gauge_every 0 --validation 0 --quiet --out run').split()
    def refused(*more):
        with pytest.raises(SystemExit) as left: gte_pretrain([*words, *more])
        assert left.value.code
        return capsys.readouterr().err
    assert refused('--dimensions', '4,9') == (
        'error: dimensions names 9, but a vector has 8 numbers here: choose whole numbers from 1 to 8\n')
    assert "dimensions are whole numbers separated by commas, such as 2,5, and not '4,x'" in refused(
        '--dimensions', '4,x')
    gte_pretrain([*words, '--dimensions', '2,4'])
    assert Embedder.load('run').settings.dimensions == (2, 4, 8)
    card = (tmp_path/'run'/'README.md').read_text()
    assert 'vectors of their own: 2, 4.' in card and '| dimensions | 2, 4 |' in card
    assert 'dimensions [2, 4] there, None here' in refused()
