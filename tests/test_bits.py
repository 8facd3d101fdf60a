"Vectors in bits: the codes are those of sentence-transformers, an index in bits finds and refuses."
import json

import numpy as np, pytest

from gte_nb.model.bits import (
    binary_codes,
    bit_table,
    hamming_distances,
    int8_codes,
    int8_products,
    int8_ranges,
    nearest_codes,
)
from gte_nb.search_index import SearchIndex

def unit(rows, width=64, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, width), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

@pytest.mark.parametrize('width', [384, 100, 8])
def test_codes_are_everyones(width):
    "The same codes as sentence-transformers, also where a dimension never changes and a width is no byte."
    quantize = pytest.importorskip('sentence_transformers.util').quantize_embeddings
    vectors, others = unit(5_000, width), unit(300, width, 1)
    vectors[:, 3], others[:, 5] = 0.5, 0.1
    assert (int8_codes(vectors, int8_ranges(others)) == quantize(vectors, 'int8',
        calibration_embeddings=others)).all()
    assert (binary_codes(vectors) == quantize(vectors, 'ubinary')).all()

@pytest.mark.parametrize('width', [384, 100, 8])
def test_distances_and_products(width):
    "Signs that differ, counted one by one; products with int8, from vectors that are put together again."
    vectors, queries = unit(200, width), unit(5, width, 1)
    table, ranges = bit_table(binary_codes(vectors)), int8_ranges(vectors)
    for query, asked in zip(queries, bit_table(binary_codes(queries)).T):
        assert (hamming_distances(table, asked) == ((vectors > 0) != (query > 0)).sum(1)).all()
    restored = ranges[0] + (int8_codes(vectors, ranges) + 128.5)*(ranges[1] - ranges[0])/255
    found = int8_products(queries, int8_codes(vectors, ranges), ranges)
    assert np.allclose(found, queries @ restored.T, atol=1e-5)
    assert np.abs(found - queries @ vectors.T).max() < 0.02

@pytest.mark.parametrize('width', [64, 384, 1_024])
def test_nearest_codes(width):
    "Among many, the near ones are found, as many as asked for, ascending; copies of a code do no harm."
    vectors = unit(50_000, width)
    query, near = vectors[7], np.arange(0, 50_000, 5_000)
    vectors[near] = query + 0.5*unit(10, width, 2)
    table, asked = bit_table(binary_codes(vectors)), bit_table(binary_codes(query[None]))[:, 0]
    rows = nearest_codes(table, asked, 100)
    assert len(rows) == 100 and (np.diff(rows) > 0).all() and np.isin(near, rows).all()
    same = nearest_codes(np.repeat(asked[:, None], 30_000, axis=1), asked, 500)
    assert (same == np.arange(500)).all()

@pytest.mark.parametrize('precision, rescore, kept', [
    ('float32', 'int8', np.float32), ('float16', 'int8', np.float16), ('int8', 'int8', np.int8),
    ('binary', 'int8', np.int8), ('binary', 'float32', np.float32), ('binary', 'float16', np.float16),
])
def test_index(tmp_path, precision, rescore, kept):
    "In memory, from disk, in parts and behind a filter: nearly the rows of 32 bits, in all the same."
    vectors = unit(3_000)
    queries = vectors[:8] + 0.5*unit(8, seed=1)
    right = SearchIndex(vectors=vectors).search(queries, 5).rows
    index = SearchIndex(vectors=vectors[:2_000], precision=precision, rescore=rescore,
        calibration=vectors)
    index.save(tmp_path)
    opened = SearchIndex.open(tmp_path)
    for some in (index, opened): some.add(vectors=vectors[2_000:])
    hits = index.search(queries, 5, oversampling=100)
    assert (opened.search(queries, 5, oversampling=100).rows == hits.rows).all()
    assert (hits.rows[:, 0] == right[:, 0]).all()
    same = np.mean([len(np.intersect1d(*rows))/5 for rows in zip(hits.rows, right)])
    assert same > (0.7 if precision == 'binary' else 0.9)     # random vectors have no near neighbours
    opened.save(tmp_path)
    again = SearchIndex.open(tmp_path)
    assert (again.search(queries, 5, oversampling=100).rows == hits.rows).all()
    assert {part.vectors.dtype for part in again._parts} == {np.dtype(kept)} and again.width == 64
    coded = kept == np.int8 or precision == 'binary'
    assert json.loads((tmp_path/'index.json').read_text())['format'] == 1 + coded
    marks = np.arange(3_000) % 3 == 0
    assert (again.search(queries, 5, marks).rows % 3 == 0).all()
    few = again.search(queries, 5, np.arange(3_000) < 2)
    assert (np.sort(few.rows)[:, -2:] == [0, 1]).all() and (few.rows[:, 2:] == -1).all()

INT8 = dict(precision='int8')

@pytest.mark.parametrize('make, said', [
    (lambda: SearchIndex(vectors=unit(3), precision='bianry'), "'bianry' is unknown; is binary meant"),
    (lambda: SearchIndex(vectors=unit(3), precision='4 bits'),
    'choose one of float32, float16, int8, binary'),
    (lambda: SearchIndex(vectors=unit(3), precision='binary', rescore='in8'), 'is int8 meant'),
    (lambda: SearchIndex(vectors=unit(3), calibration=unit(0), **INT8),
    'there are 0 vectors to take it from'),
    (lambda: SearchIndex(vectors=unit(1), **INT8), 'there are 1 vectors to take it from'),
    (lambda: SearchIndex(['a tree'], calibration=['a bird'], **INT8), 'calibration by texts needs a model'),
    (lambda: SearchIndex(vectors=unit(3), calibration=unit(9, 32), **INT8),
    'the vectors have 64 numbers, the calibration 32'),
    (lambda: SearchIndex(vectors=unit(3), calibration='text', **INT8), 'calibration texts come as str'),
    (lambda: SearchIndex(vectors=unit(3), calibration=7, **INT8), 'calibration texts come as int'),
    (lambda: SearchIndex(vectors=unit(3), calibration=[], **INT8), 'calibration is empty'),
    (lambda: SearchIndex(vectors=unit(3), calibration=unit(9)*np.nan, **INT8), 'vector 0 holds NaN'),
    (lambda: SearchIndex(vectors=unit(3)*np.nan, precision='binary'), 'vector 0 holds NaN'),
    (lambda: SearchIndex(vectors=unit(3), precision='binary').add(vectors=unit(2, 32)), 'these have 32'),
    (lambda: SearchIndex(vectors=unit(3), precision='binary').search(unit(2, 32)), 'these have 32'),
    (lambda: SearchIndex(vectors=unit(3), precision='binary').search(unit(2)*np.inf), 'vector 0 holds NaN'),
    (lambda: SearchIndex(vectors=unit(3), **INT8).link(), 'an index in int8 cannot be linked'),
    (lambda: SearchIndex(['a tree']).link(), 'no vectors to link'),
    (lambda: SearchIndex(vectors=unit(3)).search(unit(2), approximate=True), '0 of 3 rows are linked; call '
    'link'),
    (lambda: SearchIndex(vectors=unit(3), precision='binary').search(unit(2), oversampling=0),
        'oversampling is 0'),
    (lambda: SearchIndex(vectors=unit(3)).search(unit(2), oversampling=1.5), 'oversampling is 1.5'),
    (lambda: SearchIndex(vectors=unit(3), **INT8).search(unit(2), approximate=True),
        r'in int8 has no graph for an approximate search; link\(\) is for float32'),
    (lambda: SearchIndex(vectors=unit(3), precision='binary').search(unit(2), where=[1], approximate=True),
        'in binary has no graph'),
])
def test_refuses(make, said):
    with pytest.raises(ValueError, match=said): make()

@pytest.mark.parametrize('precision', ['float32', 'float16', 'int8', 'binary'])
@pytest.mark.parametrize('length', [1, 7], ids='length {}'.format)
def test_model_is_known_by_its_vectors(tmp_path, precision, length):
    "A model that is an object gives two texts of the index the vectors that it holds, or is refused."
    texts = [str(number) for number in range(50)]
    def model(texts, seed=0): return unit(50, seed=seed)[[int(text) for text in texts]]
    def other(texts): return model(texts, seed=1)
    made = SearchIndex(texts, length*model(texts), model, precision, calibration=length*model(texts))
    made.save(tmp_path)
    opened = SearchIndex.open(tmp_path, model=model)
    assert made.search('7', 1).rows == opened.search('7', 1).rows == 7
    given = SearchIndex(texts, model(texts), other, precision)
    for index in (SearchIndex.open(tmp_path, model=other), given):
        for use, asked in ((index.search, '7'), (index.add, ['8'])):
            with pytest.raises(ValueError, match="other vectors than this index holds, .* '0'"): use(asked)
        assert (index.search(unit(1)).rows >= 0).all()                              # which needs no model
    unnamed = SearchIndex(vectors=model(texts), model=other)                     # vectors without their texts
    assert unnamed.search('7', 1).rows.shape == (1, 1)

def test_calibration_by_texts():
    "The model embeds them."
    class Model:
        def encode(self, texts): return unit(len(texts), seed=len(texts))
    index = SearchIndex(['a', 'b'], model=Model(), precision='int8', calibration=['c', 'd', 'e'])
    assert np.allclose(index._precision.ranges, int8_ranges(unit(3, seed=3)), atol=1e-6)
