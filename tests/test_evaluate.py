"""Evaluation: what is refused, what is measured on one's own rows and folders, what must agree with mteb."""
import json, os, shutil, sys, warnings
from dataclasses import replace
from types import SimpleNamespace

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.script import anno_parser
from tokenizers import Tokenizer

from gte_nb.evaluation import scores, tasks as named_tasks
from gte_nb.data.files import from_files
from gte_nb.utils import runs_folder
from gte_nb.model.embedder import Embedder, minilm_folder
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.encoder import Encoder, EncoderConfig
from gte_nb.evaluation.evaluate import (BM25, STS, Classification, Clustering, PairClassification, Retrieval,
                                        clustering_task, difference, evaluate, vectors)
from gte_nb.model.folders import Settings
from gte_nb.data.mining import open_corpus
from gte_nb.evaluation.scores import gte_evaluate, load_model
from gte_nb.model.identity import model_hash
from gte_nb.data.sources import Sources
from gte_nb.training.card import write_card
from gte_nb.training.recipes import RECIPES
from gte_nb.training.stages import run_stage
from gte_nb.evaluation.own_tasks import local_tasks
from gte_nb.evaluation.tasks import find_tasks, own_task, tuning_task

def refused(function, says, error=ValueError):
    "`function` raises one sentence that holds `says`."
    with pytest.raises(error) as raised: function()
    assert says in str(raised.value) and '\n' not in str(raised.value)

def same(texts): return np.ones((len(texts), 2))
PAIRS = ['a', 'b', 'c'], ['b', 'c', 'd']

@pytest.mark.parametrize('make, says', [
    (lambda: vectors(lambda texts: np.full((2, 2), np.nan), ['a', 'b']), "the first is for text 0, 'a'"),
    (lambda: vectors(lambda texts: np.ones(3), ['a', 'b']), 'shape (3,) for 2 texts'),
    (lambda: vectors(None, ['a']), 'NoneType is no model'),
    (lambda: Retrieval('t', ['a'], [], np.array([0])), '1 queries and 0 documents'),
    (lambda: Retrieval('t', ['a', 'b'], ['d'], [{0: 1}, {0: 0}]), "the query 'b' has no relevant document"),
    (lambda: Retrieval('t', ['a'], ['d'], [{3: 1}]), 'asks for document 3, and there are 1'),
    (lambda: STS('t', ['a']*3, ['b']*3, np.ones(3)), '3 judgements, all the same'),
    (lambda: STS('t', *PAIRS, np.arange(3)).measure(same), 'the cosines of all 3 pairs of t are 1.000'),
    (lambda: PairClassification('t', ['a']*3, ['b']*3, np.array([0, 1, 2])), 'the label 2'),
    (lambda: Classification('t', ['a', 'b'], [0, 1], ['c'], [2]), 'tests the label 2'),
    (lambda: Clustering('t', [(['a', 'b'], [1, 1])]), 'set 0 of task t has 2 texts, 2 labels and 1 groups'),
    (lambda: clustering_task('small', ['x', 'y'], [0, 1]), 'small has 2 texts of 2 groups'),
    (lambda: difference(np.ones(3), np.ones(2)), 'not of the same seeds and queries'),
])
def test_a_task_or_a_model_that_could_only_give_a_meaningless_score(make, says): refused(make, says)

QUIETLY = dict(cache=None, co2_tracker=False, show_progress_bar=False)   # how mteb is called

# A vector of zeros: mteb counts its cosine as 1 − ‖a − b‖²/2 in pairs, and as 0 in a search.
KNOWN = dict(a=[1, 0], b=[0, 1], c=[1, 1], d=[2, 1], none=[0, 0], nothing=[0, 0])
ONE, OTHER = ['a', 'b', 'c', 'd', 'none', 'a', 'none'], ['b', 'c', 'd', 'd', 'a', 'nothing', 'nothing']
def with_zeros(texts): return np.array([KNOWN.get(text, [1, 0]) for text in texts], float)

@pytest.mark.parametrize('task, score', [
    (STS('t', ONE, OTHER, np.array([0., 3, 4, 5, 1, 2, 2.5])), 'Spearman'),
    (PairClassification('t', ONE, OTHER, np.array([0, 1, 0, 1, 0, 1, 1])), 'average precision'),
    (Retrieval('t', ['a', 'none', 'd'], ['b', 'c', 'nothing', 'd'],
               [{1: 1}, dict.fromkeys(range(4), 1), {3: 1}]), 'nDCG@10'),
], ids=['STS', 'PairClassification', 'Retrieval'])
def test_vectors_of_zeros_count_as_in_mteb(task, score):
    mteb = pytest.importorskip('mteb')
    from gte_nb.evaluation.benchmarks import _SCORES, mteb_encoder, mteb_task
    encoder = mteb_encoder(with_zeros, 'zeros', '1')
    with warnings.catch_warnings(action='ignore'):
        found = mteb.evaluate(encoder, mteb_task(task), **QUIETLY)
    theirs = found[0].scores['test'][0][_SCORES[task.type][0]]
    assert np.isclose(task.measure(with_zeros)[score].mean(), theirs, atol=5.01e-6)

def test_bm25_says_of_how_many_texts_it_sees_no_word():
    blind = Retrieval('t', ['read', '…', '?!'], ['read a file', '—'], [{0: 1}, {1: 1}, {1: 1}])
    sees = Retrieval('t', ['read'], ['read', 'it'], [{0: 1}])
    sentence = 'bm25 sees no word in 2 of 3 queries and 1 of 2 documents of t: there it guesses'
    for task, says in ((blind, [sentence]), (sees, [])):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            evaluate(BM25(), [task])
        assert [str(warning.message) for warning in said] == says

# Test sets in a folder, told apart by their columns: what is wrong with one costs that one.
FIRST, SECOND, IDS = ([f'{name}{i}' for i in range(60)] for name in ('one ', 'other ', 'd'))
TEXTS, JUDGED = dict(id=IDS, text=FIRST), dict(query_id=IDS, query=FIRST, corpus_id=IDS)
BOTH = dict(sentence1=FIRST, sentence2=SECOND)
EMPTY, NUMBERS = ['', None, *FIRST[2:]], [0., 1., np.nan, *np.arange(57)]

@pytest.mark.parametrize('name, parts, says', [
    ('gaps', dict(test=dict(sentence1=EMPTY, sentence2=SECOND, score=NUMBERS)),
        "gaps-test.parquet lack something and are left out, first row 1, whose sentence1 is ''"),
    ('flat', dict(test=BOTH | dict(score=[3]*60)), 'flat-test.parquet: each score is 3'),
    ('three', dict(test=BOTH | dict(label=np.arange(60) % 3)),
        'three-test.parquet, row 3: the label 2 is no label of a pair'),
    ('strange', dict(test=dict(a=FIRST, b=SECOND)),
        'strange-test.parquet has the columns a, b; it needs sentence1 and sentence2, text1 and text2'),
    ('nothing', dict(test=dict(sentence1=[], sentence2=[], score=[])), 'nothing-test.parquet has no rows'),
    ('surprise', dict(train=dict(text=FIRST, label=['a', 'b']*30),
                      test=dict(text=FIRST, label=['a', 'c']*30)),
        "surprise-test.parquet, row 2: 'c' is a label that"),
    ('vacant', dict(corpus=dict(id=[], text=[]), test=JUDGED), 'vacant-corpus.parquet has no rows'),
    ('twice', dict(corpus=dict(id=['d0', *IDS[:-1]], text=FIRST), test=JUDGED),
        "twice-corpus.parquet, row 2: 'd0' is the id of an earlier row"),
    ('lost', dict(corpus=dict(id=IDS[:50], text=FIRST[:50]), test=JUDGED),
        "lost-test.parquet, row 51: 'd50' is no id of"),
    ('double', dict(corpus=TEXTS, test=JUDGED | dict(query_id=['q'] + IDS[1:-1] + ['q'])),
        "double-test.parquet, row 60: 'q' is the query_id of two different queries"),
    ('unjudged', dict(corpus=TEXTS, queries=TEXTS),
        'there is unjudged-corpus.parquet, unjudged-queries.parquet, and no qrels'),
    ('stray', dict(corpus=TEXTS, queries=dict(id=IDS[:2], text=FIRST[:2]),
                   qrels=dict(query_id=['d0', 'd7'], corpus_id=['d0', 'd7'], score=[1, 1])),
        "stray-qrels.parquet, row 2: 'd7' is no id of"),
    ('irrelevant', dict(corpus=TEXTS, queries=TEXTS,
                        qrels=dict(query_id=['d0'], corpus_id=['d0'], score=[0])),
        'irrelevant-qrels.parquet has a relevant document'),
    ('untrained', dict(train=dict(text=FIRST, label=np.arange(60) % 2)),
        'there is no untrained-test.parquet'),
])
def test_a_set_with_a_fault_is_named_and_the_others_go_on(name, parts, says, tmp_path):
    for role, columns in parts.items(): pd.DataFrame(columns).to_parquet(tmp_path/f'{name}-{role}.parquet')
    pd.DataFrame(BOTH | dict(score=np.arange(60) % 5)).to_parquet(tmp_path/'good-test.parquet')
    tasks, notes = local_tasks(tmp_path)
    left = dict(gaps=57) if name == 'gaps' else {}
    assert {task.name: len(task.scores) for task in tasks} == dict(good=60) | left
    assert sum(says in note for note in notes) == 1

def test_files_that_are_no_set(tmp_path):
    pd.DataFrame(dict(sentence1=FIRST)).to_parquet(tmp_path/'untitled.parquet')
    (tmp_path/'cut-test.parquet').write_bytes(b'PAR1 and no more')
    (tmp_path/'other-test.jsonl').write_text('{}')
    tasks, notes = local_tasks(tmp_path)
    assert not tasks
    for part in ('untitled.parquet is left out', 'cut-test.parquet cannot be read (',
                 'other-test.jsonl: it is not read'):
        assert sum(part in note for note in notes) == 1
    _, notes = local_tasks(tmp_path, 'validation')
    assert any('there is no cut-validation.parquet' in note for note in notes)

# Rows of one's own, in the file that `gte_pretrain --corpus` takes.
def rows_of(file, splits):
    "Write a row for each split; None: a row without one."
    rows = [dict(query=f'word{i}', document=f'all about word{i}', **(dict(split=split) if split else {}))
            for i, split in enumerate(splits)]
    file.write_text('\n'.join(map(json.dumps, rows)))
    return file

SEEN = 'my (train) is measured on rows that training may have seen'

@pytest.mark.parametrize('splits, name, n, tuned, says', [
    (['train', 'validation', 'test', 'test']*5, 'my', 10, 'my (validation)', False),
    (['train', 'validation']*10, 'my (validation)', 10, None, False),
    ([None]*20, 'my (train)', 20, None, True),
], ids=['test', 'validation', 'train'])
def test_own_rows_are_a_task_of_the_rows_that_are_held_out(splits, name, n, tuned, says, tmp_path,
        monkeypatch):
    monkeypatch.delenv('GTE_NB_EVAL_DATA', raising=False)       # no other tasks, which take seconds
    for others in ('HUMAN', 'CLUSTERING'): monkeypatch.setattr(named_tasks, others, {})
    corpus = from_files(rows_of(tmp_path/'my.jsonl', splits), tmp_path/'corpus')
    tasks, notes = find_tasks(['default'], corpus)
    task = {task.name: task for task in tasks}[name]
    assert len(task.queries) == len(task.documents) == n and task.measure(BM25())['MRR@10'].mean() == 1
    assert any(SEEN in note for note in notes) == says and getattr(tuning_task(corpus), 'name', None) == tuned
    assert any(note.startswith('packages are left out: my.jsonl') for note in notes)
    own, notes = find_tasks(['own'], corpus)                    # what `--corpus` alone asks for
    assert [task.name for task in own] == [name] and len(notes) == says

def answers(task):
    return {(query, task.documents[d]) for query, right in zip(task.queries, task.right) for d in right}

def test_own_rows_with_several_answers(tmp_path):
    pairs = {('a', 'one'), ('a', 'two'), ('b', 'two'), ('b', 'three'), ('c', 'four')}
    (tmp_path/'my.csv').write_text('\n'.join(['query,document', *map(','.join, sorted(pairs))]))
    corpus = from_files(tmp_path/'my.csv', tmp_path/'corpus')
    task, few = own_task(corpus, 'my'), own_task(corpus, 'my', rows=2)
    assert answers(task) == pairs and task.metric == 'nDCG@10'
    assert len(few.queries) == 2                                # each with all of its answers
    assert answers(few) == {(q, d) for q, d in pairs if q in few.queries}

def test_own_rows_without_their_prefixes(tmp_path):
    "The model's folder says what stands before a text; a test with it would have it twice."
    source = dict(files=str(tmp_path/'my.csv'), query_prefix='query: ', document_prefix='passage: ')
    (tmp_path/'my.csv').write_text('query,document\na,one\nb,two')
    task = own_task(Sources.open(dict(my=source)).corpus(tmp_path/'corpus'), 'my')
    assert answers(task) == {('a', 'one'), ('b', 'two')}

def test_own_rows_that_leave_nothing_to_choose(tmp_path):
    (tmp_path/'my.csv').write_text('query,document\na,one\nb,one')
    corpus = from_files(tmp_path/'my.csv', tmp_path/'corpus')
    refused(lambda: own_task(corpus, 'my'), 'the train rows of my have 1 document; give at least two')

def no_corpus(*_): raise AssertionError('the corpus was opened')
MINED = SimpleNamespace(manifest=dict(rows=dict(docstring_code={})), folder='a corpus')

@pytest.mark.parametrize('names, corpus, says', [
    (['packges (names maskd)'], MINED,
        "no task or suite is called 'packges (names maskd)'; near it: packages (names masked)"),
    (['zeroshot'], MINED, 'near it: zero-shot'),
    ([], no_corpus, 'no task is named'),
    (['Python: docstring → function'], no_corpus, 'docstring_code was trained on'),
])
def test_names_that_are_no_task(names, corpus, says): refused(lambda: find_tasks(names, corpus), says)

def test_tasks_that_need_no_corpus_do_not_open_it(tmp_path, monkeypatch):
    monkeypatch.setenv('GTE_NB_EVAL_DATA', str(tmp_path))
    pd.DataFrame(BOTH | dict(score=np.arange(60) % 5)).to_parquet(tmp_path/'Mine-test.parquet')
    assert [task.name for task in find_tasks(['mine'], no_corpus)[0]] == ['Mine']
    with pytest.raises(AssertionError): find_tasks(['default'], no_corpus)

# Models by name: in our encoder where it computes them, otherwise in sentence-transformers.
WORDS = [f'word{i} about {other}' for i in range(12) for other in ('files', 'music')]

def bert(folder, **settings):
    "A folder with a BERT of random weights, so wide that texts differ by more than rounding."
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder()/'tokenizer.json'))
    config = EncoderConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=1,
                           num_attention_heads=2, intermediate_size=64, initializer_range=0.5)
    Embedder(Encoder(config), tokenizer, 32, Settings(**settings)).save(folder)
    return folder

@pytest.fixture(scope='module')
def distilbert(tmp_path_factory):
    "A folder of sentence-transformers whose architecture is not computed here."
    sentence_transformers = pytest.importorskip('sentence_transformers')
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel
    folder, start = tmp_path_factory.mktemp('theirs'), str(tmp_path_factory.mktemp('start'))
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    config = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    DistilBertModel(config).save_pretrained(start)
    tokenizer.save_pretrained(start)
    prompts = dict(query='find: ', Classification='label: ')
    model = sentence_transformers.SentenceTransformer(start, prompts=prompts, device='cpu')   # with the mean
    model.max_seq_length = 32
    model.save(str(folder))
    return folder

def theirs(folder):
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(str(folder), device='cpu')

def rewritten(file, **fields): file.write_text(json.dumps(json.loads(file.read_text()) | fields))

def test_a_folder_is_run_as_it_says(tmp_path):
    pytest.importorskip('sentence_transformers')
    prompt, keys = dict(prompts=dict(query='q: '), default_prompt_name='query'), set()
    for name, settings in dict(mean={}, cls=dict(pooling=('cls',)), prompt=prompt).items():
        model, key, _ = load_model(str(bert(tmp_path/name, **settings)), None)
        assert isinstance(model, Embedder) and key == model_hash(tmp_path/name)
        assert np.abs(model.encode(WORDS) - theirs(tmp_path/name).encode(WORDS)).max() < 1e-5
        keys.add(key)
    assert len(keys) == 3                                       # though the weights of all three are the same

def test_what_is_not_computed_here_runs_in_its_own_library(distilbert, tmp_path):
    model, key, about = load_model(str(distilbert), None)
    assert type(model).__name__ == 'SentenceTransformer' and key == model_hash(distilbert)
    folder = shutil.copytree(distilbert, tmp_path/'cls')
    rewritten(folder/'1_Pooling'/'config.json', pooling_mode='cls')
    other, other_key, _ = load_model(str(folder), None)
    assert key != other_key and np.abs(model.encode(WORDS) - other.encode(WORDS)).max() > 1e-3

@pytest.mark.parametrize('kind, file, settings', [
    ('SparseEncoder', 'config_sentence_transformers.json', dict(model_type='SparseEncoder')),
    ('CrossEncoder', 'config.json', dict(architectures=['DistilBertForSequenceClassification'])),
])
def test_what_gives_no_vector_of_a_text_is_refused(kind, file, settings, distilbert, tmp_path):
    folder = shutil.copytree(distilbert, tmp_path/'model')      # sentence-transformers would load both
    if kind == 'CrossEncoder': (folder/'modules.json').unlink()
    rewritten(folder/file, **settings)
    refused(lambda: load_model(str(folder), None), f'holds a {kind}, which gives a text no vector of its own')

def test_without_the_library_that_computes_a_model(distilbert, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    for says in ('asks for the architecture distilbert, which is not computed here',
                 'pip install sentence-transformers'):
        refused(lambda: load_model(str(distilbert), None), says)

def test_a_folder_of_model2vec(tmp_path):
    model2vec = pytest.importorskip('model2vec')
    tokenizer = train_tokenizer(WORDS, 100, special_tokens=False)
    table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)
    mine = model2vec.StaticModel(table, tokenizer, normalize=True)
    mine.save_pretrained(tmp_path)
    assert (tmp_path/'config.json').exists() and (tmp_path/'modules.json').exists()
    model, key, _ = load_model(str(tmp_path), None)
    texts = [*WORDS, '', 'ξένος word1']
    assert isinstance(model, Embedder) and key == model_hash(tmp_path)
    assert np.abs(model.encode(texts) - mine.encode(texts)).max() < 1e-5

def test_the_packaged_model_is_named_by_its_folder():
    assert load_model('all-MiniLM-L6-v2', None)[1] == model_hash(minilm_folder())

@pytest.mark.parametrize('files, says', [
    ({}, 'holds no model (no config.json'),
    ({'config.json': '{"model_type": "bert"}'}, 'holds no'),
    ({'config.json': '{"model_type": "gpt2"}', 'pytorch_model.bin': ''},
        'is a pickle, which is never loaded here'),
])
def test_folders_that_are_no_model(files, says, tmp_path):
    for name, text in files.items(): (tmp_path/name).write_text(text)
    refused(lambda: load_model(str(tmp_path), None), says, (ValueError, FileNotFoundError))

def test_bm25_with_constants_of_its_name():
    model, key, _ = load_model('bm25-0.9-0.4')
    assert (model.k1, model.b, key) == (0.9, 0.4, 'bm25-0.9-0.4')

def test_names_that_are_no_model():
    refused(lambda: load_model('no-such-model', None), "no-such-model is no folder with a model, nor 'bm25'")

# A benchmark gives a folder the score that mteb gives it through sentence-transformers.
LIKENESS = STS('likeness', WORDS[:-1], WORDS[1:], np.random.default_rng(0).random(23))
KINDS = Classification('kinds', WORDS, ['files', 'music']*12, WORDS[::-1], ['music', 'files']*12)
SEARCH = Retrieval('search', WORDS[:6], WORDS, [{i: 1, i + 6: 1} for i in range(6)])
PROMPTS = dict(query='find: ', document='found: ', Classification='label: ')
NO_TASK = dict(query='find: ', other='no task of mteb: ')

@pytest.mark.parametrize('settings', [
    dict(pooling=('cls',), normalize=False, prompts=PROMPTS),
    dict(normalize=False, similarity='dot', prompts=NO_TASK, default_prompt_name='query'),
    None,                                                       # what runs in sentence-transformers
], ids=['cls', 'dot', 'theirs'])
def test_a_benchmark_is_what_mteb_makes_of_the_folder(settings, distilbert, tmp_path):
    mteb = pytest.importorskip('mteb')
    from mteb.models import SentenceTransformerEncoderWrapper
    from gte_nb.evaluation.benchmarks import _SCORES, mteb_task, run_benchmark
    folder = distilbert if settings is None else bert(tmp_path/'model', **settings)
    model, key, _ = load_model(str(folder), None)
    tasks = [SEARCH, KINDS, LIKENESS]
    ours = run_benchmark(model, 'search, kinds, likeness', tmp_path/'results', 'mine', key, tasks)
    ours = ours.set_index('task')['score']
    with warnings.catch_warnings(action='ignore'):
        wrapped = SentenceTransformerEncoderWrapper(theirs(folder))
        for task in tasks:
            found = mteb.evaluate(wrapped, mteb_task(task), **QUIETLY)
            main, name = _SCORES[task.type]
            score = found[0].scores['test'][0][main]
            assert np.isclose(ours[task.name], score, atol=1e-6)
            if task is KINDS: continue                          # `measure` knows no prompt of a type
            assert np.isclose(task.measure(model)[name].mean(), score, atol=5.01e-6)

# The command, on files of one's own.
@pytest.fixture
def evaluated(tmp_path, monkeypatch, capsys):
    "What `gte_evaluate` prints, where the project's corpus must not be opened."
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('GTE_NB_EVAL_DATA', str(tmp_path))
    monkeypatch.setattr('gte_nb.data.mining.open_corpus',
                        lambda paths, **how: open_corpus(paths, **how) if paths else no_corpus())
    def command(models, **how):
        capsys.readouterr()
        try: gte_evaluate(models, out=str(tmp_path/'out'), **how)
        except SystemExit: pass
        out, err = capsys.readouterr()
        return out + err
    return command

def test_bm25_and_a_model_on_own_rows(evaluated, tmp_path):
    rows = str(rows_of(tmp_path/'my.jsonl', [None]*20))
    said = evaluated(['bm25', str(bert(tmp_path/'model'))], corpus=[rows], tasks='my (train)')
    assert 'my (train) (MRR@10)  1.000 [1.000, 1.000]' in said and said.count(SEEN) == 1
    assert 'bm25: this corpus has no validation rows to choose k1 and b on' in said
    rows_of(tmp_path/'my.jsonl', ['test', 'validation']*10)
    assert 'choose k1' not in evaluated(['bm25'], corpus=[rows], tasks='my')
    # by the rows that `gte_pretrain --validation 0.2` keeps from training
    rows_of(tmp_path/'my.jsonl', [None]*100)
    said = evaluated(['bm25'], corpus=[rows], validation=0.2)
    assert 'my (validation) (MRR@10)' in said and SEEN not in said

def test_a_corpus_of_several_files(evaluated, tmp_path):
    splits = ['test', 'train']*5, ['train', 'test', 'test']*4   # each file is a source
    files = [str(rows_of(tmp_path/f'{name}.jsonl', part)) for name, part in zip(('one', 'two'), splits)]
    evaluated(['bm25'], corpus=files, tasks='one; two')
    rows = pd.read_csv(tmp_path/'out'/'evaluation.csv')
    assert rows.groupby('task')['n'].first().to_dict() == dict(one=5, two=8)

def test_a_changed_folder_is_measured_again(evaluated, tmp_path):
    words = [f'word{i}' for i in range(20)]
    task = Retrieval('my', words, [f'all about {word}' for word in words], np.arange(20))
    rows, folder = str(rows_of(tmp_path/'my.jsonl', ['test']*20)), tmp_path/'model'
    for settings in ({}, dict(pooling=('cls',)), {}):
        evaluated([str(bert(folder, **settings))], corpus=[rows], tasks='my')
        printed = pd.read_csv(tmp_path/'out'/'evaluation.csv').query('metric == "MRR@10"')['score'].item()
        assert np.isclose(printed, task.measure(Embedder.load(folder))['MRR@10'].mean())

def test_own_test_sets_need_no_corpus(evaluated, tmp_path):
    pd.DataFrame(BOTH | dict(score=np.arange(60) % 5)).to_parquet(tmp_path/'Mine-test.parquet')
    assert 'Mine (Spearman)' in evaluated(['bm25', str(bert(tmp_path/'model'))], tasks='Mine')

@pytest.mark.parametrize('how, says', [
    (dict(tasks='STSbenchmarc', corpus=['my.jsonl']), 'error: no task or suite is called'),
    (dict(benchmark='STSBenchmark'), 'error: bm25 gives no vectors'),
    (dict(corpus=['nowhere.jsonl']), 'error: source nowhere: nowhere.jsonl does not exist'),
])
def test_what_the_command_refuses(how, says, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows_of(tmp_path/'my.jsonl', ['test']*20)
    assert says in evaluated(['bm25'], **how)

def test_help_names_the_folder_that_is_written(capsys):
    anno_parser(gte_evaluate, 'gte_evaluate').print_help()
    words = ''.join(capsys.readouterr().out.split())
    assert f"default:{runs_folder()/'evaluation'}".replace(' ', '') in words

def test_recorded_scores_are_the_means_of_recorded_items(evaluated, tmp_path, monkeypatch):
    "A model after the other: the second must not replace the first."
    results = tmp_path/'data'/'results'
    results.mkdir(parents=True)
    monkeypatch.setattr(scores, 'results_folder', lambda: results)
    monkeypatch.setattr(scores, 'data_folder', lambda: tmp_path/'data')
    rows = str(rows_of(tmp_path/'my.jsonl', ['test']*30))
    for model in 'bm25', 'bm25-1.5-0.75': evaluated([model], corpus=[rows], record=True)
    table = scores.recorded('evaluation.csv').query('metric == "MRR@10"').set_index('model')['score']
    assert set(table.index) == {'bm25', 'bm25-1.5-0.75'}
    for model in table.index:
        values = scores.recorded_values('', model, 'my')
        assert values.shape == (1, 30) and values.mean() == pytest.approx(table[model], abs=1e-3)

# The recorded tables, where there is no checkout or no IPython.
SHOWN = scores.scoreboard_from_results, scores.claims_from_results, scores.zero_shot_from_results

TABLES = *SHOWN, scores.zero_shot_claims, scores.recorded_table, lambda: scores.recorded('items.parquet')

@pytest.mark.parametrize('table', TABLES)
def test_no_recorded_results(table, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, 'data_folder', lambda: tmp_path)
    refused(table, 'is missing: recorded results travel with a checkout of the project', FileNotFoundError)

@pytest.mark.parametrize('table', SHOWN, ids=lambda table: table.__name__)
def test_no_ipython(table, monkeypatch):
    if not (scores.data_folder()/'results'/'items.parquet').exists(): pytest.skip('no recorded results')
    monkeypatch.setitem(sys.modules, 'IPython', None)
    refused(table, 'a table is shown by IPython, which is not installed; get it with: pip install ipython')

def test_a_name_that_is_no_task_is_refused_before_anything_is_mined(monkeypatch, capsys):
    monkeypatch.delenv('GTE_NB_EVAL_DATA', raising=False)
    monkeypatch.setattr('gte_nb.data.mining.mine', lambda *_, **__: pytest.fail('mined'))
    with pytest.raises(SystemExit): gte_evaluate(['bm25'], tasks='packges')
    assert "no task or suite is called 'packges'; near it: packages" in capsys.readouterr().err

def test_rows_that_a_model_may_have_seen_are_named_and_stay_out_of_its_card(evaluated, tmp_path):
    "Trained with another share of validation rows than it is measured with."
    rows, run = str(rows_of(tmp_path/'my.jsonl', [None]*100)), tmp_path/'run'
    shape = dict(steps=3, batch_size=8, vocab_size=200, hidden_size=8)
    recipe = replace(RECIPES['laptop-scratch'][0], **shape)
    run_stage(recipe, run, open_corpus([rows], validation=0.1), quiet=True)
    for share, seen in ((0.1, False), (0.3, True)):
        said = evaluated([str(run)], corpus=[rows], validation=share)
        assert ('it may have seen rows that are measured here' in said) == seen
        assert ('| my (validation) |' in (run/'README.md').read_text()) == (not seen)
        (run/'README.md').unlink(); write_card(run, open_corpus([rows], validation=0.1))
