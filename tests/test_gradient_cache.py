"The gradient cache: what bad input gets, and its three steps one by one."
import numpy as np
import pytest
import torch

from gte_nb.data.batches import Batch
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import Encoder, EncoderConfig
from gte_nb.training import chunks
from gte_nb.training.chunks import ChunkedBatch, halves, plan, side_by_side
from gte_nb.training.gradient_cache import _embed, _replay, backward

@pytest.fixture(scope='module')
def embedder():
    torch.manual_seed(0)
    config = EncoderConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    return Embedder(Encoder(config).double().train(), Embedder.load().tokenizer, 128)

RNG = np.random.default_rng(0)
def texts(n): return [RNG.integers(1_000, 30_000, size=RNG.integers(3, 128)) for _ in range(n)]
IDS, DOCUMENTS = texts(32), texts(32)
SOME = Batch(IDS, DOCUMENTS)
REFUSED = [ # sentence, batch, further arguments
    ('the batch is empty', Batch([], []), {}),
    ('32 queries and 31 documents', Batch(IDS, IDS[1:]), {}),
    ('31 negatives', Batch(IDS, IDS, IDS[1:]), {}),
    ("loss is 'imporved'", SOME, dict(loss='imporved')),
    ("precision is 'fp8'", SOME, dict(precision='fp8')),
    ('memory is -1', SOME, dict(memory=-1)),
    ('temperature is 0', SOME, dict(temperature=0)),
    ('documents[0] is a zero vector', Batch(IDS, [IDS[0][:0], *IDS[1:]]), {}),
    ('holds 40000', Batch(IDS, [np.array([40_000]), *IDS[1:]]), {}),
]

@pytest.mark.parametrize('sentence, batch, more', REFUSED, ids=[sentence for sentence, *_ in REFUSED])
def test_refused(embedder, sentence, batch, more):
    with pytest.raises(ValueError) as error: backward(embedder, batch, **more)
    assert sentence in str(error.value)

def planned(embedder, memory):
    work = ChunkedBatch(embedder, SOME, 'fp32', memory, 7)
    return work, *plan(work)

def test_a_plan_holds_every_text_once(embedder):
    for memory in (None, 4 << 20, 0):
        work, vectors, used = planned(embedder, memory)
        assert sorted(np.concatenate(work.chunks)) == list(range(64)) and work.count == len(work.chunks)
        assert len(vectors) == len(work.chunks[0]) and used > 0
        assert memory is None or len(vectors) == 1 or used <= memory
        assert max(work.lengths[work.chunks[0]]) == max(work.lengths)             # the longest come first

def test_less_memory_keeps_fewer_graphs(embedder):
    kept, vectors = {}, {}
    _, _, chunk = planned(embedder, None)
    for memory in (2 << 30, int(1.5*chunk), chunk):
        work = ChunkedBatch(embedder, SOME, 'fp32', memory, 7)
        vectors[memory], graphs = _embed(work)
        kept[memory] = len(graphs)
        assert all(graph.requires_grad for graph in graphs) and not vectors[memory].requires_grad
        assert all(graph.equal(vectors[memory][rows])
            for graph, rows in zip(graphs, map(torch.from_numpy, work.chunks)))
    assert kept[2 << 30] == len(work.chunks) > kept[chunk] == 1
    # kept or not: the same vectors
    assert all(vectors[chunk].equal(other) for other in vectors.values())

def test_a_replay_gives_the_gradient_of_the_graphs(embedder):
    gradients = []
    for keep in (True, False):
        work = ChunkedBatch(embedder, SOME, 'fp32', 2 << 30, 7)
        vectors, kept = _embed(work)
        _replay(work, kept if keep else [], vectors.cos())
        gradients.append(torch.cat([p.grad.flatten() for p in embedder.encoder.parameters()
            if p.grad is not None]))
        embedder.encoder.zero_grad()
    assert gradients[0].any() and gradients[0].equal(gradients[1])

def test_free_memory_decides_how_many_graphs_are_kept_and_nothing_else(embedder, monkeypatch):
    _, _, chunk = planned(embedder, None)
    kept, cuts, gradients = [], [], []
    for free in (0, 64 << 30):
        monkeypatch.setattr('gte_nb.training.chunks.free_memory', lambda free=free: free)
        monkeypatch.setattr('gte_nb.training.chunks.graph_memory', lambda *_: int(1.5*chunk))
        work = ChunkedBatch(embedder, SOME, 'fp32', None, 7)
        kept.append(len(_embed(work)[1]))
        cuts.append([rows.tolist() for rows in work.chunks])
        backward(embedder, SOME, temperature=0.05, seed=7)
        gradients.append(torch.cat([p.grad.flatten() for p in embedder.encoder.parameters()
            if p.grad is not None]))
        embedder.encoder.zero_grad()
    assert kept == [1, len(cuts[0])] and len(cuts[0]) > 1 and cuts[0] == cuts[1]
    assert gradients[0].any() and gradients[0].equal(gradients[1])

@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)

def test_two_threads_and_one_give_the_same_bits(embedder, two_threads):
    gradients = []
    for threads in (2, 2, 1):
        torch.set_num_threads(threads)
        backward(embedder, SOME, temperature=0.05, seed=7)
        gradients.append(torch.cat([p.grad.flatten() for p in embedder.encoder.parameters()
            if p.grad is not None]))
        embedder.encoder.zero_grad()
    assert gradients[0].any() and all(gradients[0].equal(other) for other in gradients)

def test_halves_share_weights_and_texts_but_no_gradients(embedder):
    first, second = halves(embedder, SOME, 'fp32', None, 7)
    for ours, theirs in zip(*(work.embedder.encoder.parameters() for work in (first, second))):
        assert ours.data_ptr() == theirs.data_ptr() and ours is not theirs
    assert sorted(np.concatenate([first.shares[first.rank], second.shares[second.rank]])) == list(range(64))
    padded = Embedder(embedder.encoder, embedder.tokenizer, 128)
    padded.encoder.packed = False
    try: assert len(halves(padded, SOME, 'fp32', None, 7)) == 1
    finally: padded.encoder.packed = None

def test_a_compiled_encoder_is_not_halved_since_its_masks_come_from_pytorch():
    torch.manual_seed(0)
    config = EncoderConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    compiled = Embedder(Encoder(config).train(), Embedder.load().tokenizer, 128)
    assert len(halves(compiled, SOME, 'fp32', None, 7)) == 2
    compiled.encoder.compile(backend='eager')              # nothing runs: a first call would compile it
    assert len(halves(compiled, SOME, 'fp32', None, 7)) == 1

def test_a_fault_in_either_thread_arrives_and_the_threads_come_back(two_threads):
    assert side_by_side(int, ['1', '2']) == [1, 2]
    for words in (['1', 'two'], ['one', '2']):
        with pytest.raises(ValueError, match='invalid literal'): side_by_side(int, words)
        assert torch.get_num_threads() == 2

@pytest.mark.parametrize('limit, used, left', [('max', '5', None), ('1000', '300', 700), (None, None, None)])
def test_a_container_s_limit_counts(limit, used, left, tmp_path, monkeypatch):
    if limit:
        (tmp_path/'memory.max').write_text(limit)
        (tmp_path/'memory.current').write_text(used)
    monkeypatch.setattr(chunks, 'Path', lambda root, name: tmp_path/name)
    free = chunks.free_memory.__wrapped__()            # without what it remembers
    assert free == left if left else free > 1 << 20
