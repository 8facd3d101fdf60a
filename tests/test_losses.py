"The losses: what bad arguments get, and the functions that have names of their own."
import inspect
from functools import partial
from math import inf, nan

import pytest
import torch

from gte_nb.losses import LOSSES, RUNGS, NotFinite, contrastive_loss, improved_contrastive_loss, info_nce

def with_row(tensor, at, value):
    tensor = tensor.clone()
    tensor[at] = value
    return tensor

def random_batch(n, d, k):
    generator = torch.Generator().manual_seed(0)
    def noise(*shape): return torch.randn(*shape, dtype=torch.float64, generator=generator)
    queries = noise(n, d)
    documents = queries + noise(n, d)
    return queries, documents, documents[:, None] + noise(n, k, d)

Q, D, H = random_batch(4, 6, 2)
SHAPES = [ # sentence, queries, documents, further arguments
    ('queries are (4, 6) and documents (3, 6)', Q, D[:3], {}),
    ('queries are (6,) and documents (6,)', Q[0], D[0], {}),
    ('the batch is empty (n = 0)', Q[:0], D[:0], {}),
    ('documents torch.float32', Q, D.float(), {}),
    ('on meta; bring them to one dtype and device', Q, D.to('meta'), {}),
    ('must be floating point', Q.long(), D.long(), {}),
    ('it must hold one number', Q, D, dict(temperature=torch.ones(4))),
    ('hard_negatives are (4, 6); they must be (n, k, d) with n = 4 and d = 6', Q, D,
    dict(hard_negatives=H[:, 0])),
    ('hard_negatives are (3, 2, 6)', Q, D, dict(hard_negatives=H[:3])),
    ('hard_negatives torch.float32', Q, D, dict(hard_negatives=H.float())),
    ('it must be (4, 2) of torch.bool', Q, D, dict(hard_negatives=H, hard_negative_mask=torch.ones(4, 2))),
    ('came without hard_negatives', Q, D, dict(hard_negative_mask=torch.ones(4, 2, dtype=torch.bool))),
    ('ids are (4, 2) of torch.int64; they must be (4, 4)', Q, D,
     dict(hard_negatives=H, ids=torch.zeros(4, 2).long())),
    ('ids are (4, 2) of torch.float32', Q, D, dict(ids=torch.zeros(4, 2))),
    *((f'temperature is {float(bad)}'.removesuffix('.0'), Q, D, dict(temperature=bad))
    for bad in (0, -0.01, nan, inf)),
    ('temperature is 0.0', Q, D, dict(temperature=torch.tensor(0.))),
    ('temperature is -1.0', Q, D, dict(temperature=torch.tensor(-1., requires_grad=True))),
    *((f'tile_size is {bad}', Q, D, dict(tile_size=bad)) for bad in (0, -1, 2.5, True)),
]
VECTORS = [ # kind of error, sentence, queries, documents, hard negatives
    (ValueError, 'queries[2] is a zero vector', with_row(Q, 2, 0), D, None),
    (NotFinite, 'documents[3] is not finite', Q, with_row(D, 3, nan), None),
    (NotFinite, 'documents[3] is not finite', Q, with_row(D, 3, inf), None),
    (ValueError, 'hard_negatives[1, 0] is a zero vector', Q, D, with_row(H, (1, 0), 0)),
]

def refusal(work, kind=ValueError):
    with pytest.raises(kind) as error: work()
    assert type(error.value) is kind
    return str(error.value)

@pytest.mark.parametrize('sentence, queries, documents, more', SHAPES,
                         ids=[f'{number}: {case[0]}' for number, case in enumerate(SHAPES)])
def test_arguments_are_refused(sentence, queries, documents, more):
    for loss in LOSSES.values():
        assert sentence in refusal(partial(loss, queries, documents, **more))

@pytest.mark.parametrize('tile_size', [None, 3])
@pytest.mark.parametrize('kind, sentence, queries, documents, negatives', VECTORS)
def test_vectors_without_a_direction_are_refused(kind, sentence, queries, documents, negatives, tile_size):
    for loss in LOSSES.values():
        said = refusal(partial(loss, queries, documents, hard_negatives=negatives, tile_size=tile_size), kind)
        assert sentence in said

def test_an_absent_hard_negative_may_be_anything():
    mask = torch.tensor([[True, False], [False, True], [True, True], [True, True]])
    holes = with_row(H, (0, 1), nan)
    for loss in LOSSES.values(): assert loss(Q, D, 0.05, holes, mask) == loss(Q, D, 0.05, H, mask)
    for loss in LOSSES.values(): assert loss(Q, D, 0.05, holes, mask).isfinite()

def test_a_rung_is_known():
    assert "rung is 'best'; choose one of vanilla, transpose" in refusal(lambda: contrastive_loss(Q, D,
        rung='best'))

@pytest.mark.parametrize('name', RUNGS)
def test_a_rung_is_the_contrastive_loss(name):
    "By place and by keyword."
    mask, ids = torch.tensor([[True, False]] * 4), torch.arange(16).view(4, 4) % 9
    expected = contrastive_loss(Q, D, 0.1, H, mask, ids, 3, rung=name)
    assert LOSSES[name](Q, D, 0.1, H, mask, ids, 3) == expected
    assert LOSSES[name](documents=D, queries=Q, tile_size=3, ids=ids, hard_negative_mask=mask,
        hard_negatives=H,
                        temperature=0.1) == expected

def test_only_the_improved_loss_counts_the_positive_twice():
    once = contrastive_loss(Q, D, count_positive_twice=False)
    assert improved_contrastive_loss(Q, D, 0.01, None, None, None, None, False) == once
    assert once != improved_contrastive_loss(Q, D)
    with pytest.raises(TypeError): info_nce(Q, D, count_positive_twice=False)
    with pytest.raises(TypeError): info_nce(Q)
    with pytest.raises(TypeError): improved_contrastive_loss(Q, D, rung='vanilla')

@pytest.mark.parametrize('name, more', [('info_nce', []), ('symmetric_info_nce', []),
                                        ('improved_contrastive_loss', ['count_positive_twice'])])
def test_named_losses_have_a_signature_and_a_description(name, more):
    import gte_nb.losses
    loss = getattr(gte_nb.losses, name)
    parameters = ['queries', 'documents', 'temperature', 'hard_negatives', 'hard_negative_mask', 'ids',
        'tile_size']
    parameters += [*more, 'leave_out_margin', 'guide']
    assert [*inspect.signature(loss).parameters] == parameters
    assert (loss.__name__, loss.__qualname__, loss.__module__) == (name, name, 'gte_nb.losses')
    section = loss.__doc__.partition('Args:\n')[2].partition('\n\n')[0]
    described = [line.split()[0] for line in section.split('\n')]
    assert described == parameters and loss.__doc__.endswith('torch.Tensor: scalar')
