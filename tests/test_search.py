"Search: what is searched, which vectors are computed, what is said, what it costs; with tiny packages."
import json, os, signal, statistics, subprocess, sys
from importlib import metadata
from pathlib import Path

import numpy as np, pytest, torch
import test_mining
from fastcore.script import anno_parser
from test_mining import BIRDS, BOATS, PACKAGES, TREES, code, install

from gte_nb import answers, search
from gte_nb.data import functions, mining
from gte_nb.data.functions import environment_stamp, installed_functions
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import StaticEncoder
from gte_nb.model.folders import Settings
from gte_nb.model.identity import model_hash
from gte_nb.model.query_model import QueryModel, map_tensors
from gte_nb.search import gte_search, show_hits
from gte_nb.search_index import SearchIndex, kept_vectors

site = test_mining.site                                         # its fixture, here as well

@pytest.fixture(scope='session')
def model(tmp_path_factory):
    "A folder with a static model that gives each token a direction of its own, so that shared words decide."
    tokenizer = train_tokenizer([BOATS, TREES, BIRDS], 400, special_tokens=False)
    encoder = StaticEncoder(size := tokenizer.get_vocab_size(), size)
    encoder.embedding.weight.data = torch.eye(size)
    Embedder(encoder, tokenizer).save(folder := tmp_path_factory.mktemp('model'))
    return folder

@pytest.fixture
def embedded(monkeypatch):
    "All texts whose vectors an index computes."
    texts, encode = [], Embedder.encode_document
    def encode_document(self, some, **how):
        texts.extend(some)
        return encode(self, some, **how)
    monkeypatch.setattr(Embedder, 'encode_document', encode_document)
    return texts

@pytest.fixture
def environment(site, monkeypatch):
    "An environment of three packages; Python itself is left out, which would take seconds."
    for name, text in PACKAGES.items(): install(site, name, {f'{name}.py': text})
    every, files = metadata.distributions, functions.python_files
    monkeypatch.setattr(metadata, 'distributions', lambda: every(path=[str(site)]))
    monkeypatch.setattr(functions, 'python_files',
        lambda package: [] if package == 'python' else files(package))
    return site

def names(answer): return [hit['name'] for hit in answer.hits]

def texts_file(file, texts):
    "A file of texts."
    file.write_text('\n'.join(json.dumps(dict(text=text)) for text in texts))
    return file

def rows_file(file, documents):
    "A file of rows as gte_pretrain takes it."
    rows = [dict(query=f'question {i}', document=text) for i, text in enumerate(documents)]
    file.write_text('\n'.join(map(json.dumps, rows)))
    return file

def test_environment(environment, model, embedded):
    "By default every installed package is searched; one that is new or changed costs its new functions only."
    found = search.search('cut an old tree down', model, top=6)
    assert names(found)[0] == 'fell' and found.searched == len(found.hits) == len(embedded) == 6
    assert sorted({hit['module'] for hit in found.hits}) == ['birds', 'boats', 'trees']
    embedded.clear()
    assert search.search('cut an old tree down', model, top=6) == found and not embedded
    changed = BOATS.replace('over the lake with', 'across it with')
    install(environment, 'boats', {'boats.py': changed}, version='2.0')
    (environment/'boats-1.0.dist-info').rename(environment/'gone')
    install(environment, 'kites', {'kites.py': BIRDS.replace('bird', 'kite')})
    assert search.search('cut an old tree down', model, top=10).searched == 8
    assert sorted(text.split(':')[0] for text in embedded) == ['boats row boat', 'kites feed',
        'kites whistle']

def test_words_first(environment, model, monkeypatch):
    "Who waits gets an answer from words: from the packages that are read, from all, and then the model's."
    monkeypatch.setattr(answers, 'SOON', 0)
    monkeypatch.setattr(answers, 'PATIENCE', 0)
    early, late, among, best = answers.answers('cut an old tree down', answers.of_packages(None), model)
    assert early.missing and not early.final and early.searched < late.searched == best.searched == 6
    assert early.model == late.model == 'words' and among.model == best.model == str(model)
    assert not among.final and among.searched < 6 and names(among)[0] == 'fell' and best.final
    assert names(late)[0] == names(best)[0] == 'fell'
    again, = answers.answers('cut an old tree down', answers.of_packages(None), model)
    assert again == best

def test_quick(environment, model, embedded):
    "A quick answer embeds nothing, and takes the model's vectors where they are."
    quick, = answers.answers('cut an old tree down', answers.of_packages(None), model, quick=True)
    assert quick.model == 'words' and quick.final and not embedded
    best = search.search('cut an old tree down', model)
    assert list(answers.answers('cut an old tree down', answers.of_packages(None), model,
        quick=True)) == [best]

@pytest.mark.parametrize('base', ['.', 'src'])
def test_editable(site, tmp_path, base):
    "A package that is installed from where it is written is read there, again when a file changes or is new."
    source, stamps = tmp_path/'project'/base, set()
    origin = dict(dir_info=dict(editable=True), url=(tmp_path/'project').as_uri())
    install(site, 'boats', {'boats-1.0.dist-info/direct_url.json': json.dumps(origin)})
    (source/'boats').mkdir(parents=True)
    def found():
        stamps.add(environment_stamp())
        *_, (rows, _) = installed_functions('boats')
        return [f"{row['module']}.{row['name']}" for row in rows]
    (source/'boats'/'__init__.py').write_text(BOATS)
    assert found() == ['boats.row_boat', 'boats.sail']
    (source/'boats'/'__init__.py').write_text(BOATS + TREES)
    assert found() == [f'boats.{name}' for name in ('row_boat', 'sail', 'plant', 'fell')]
    (source/'boats'/'more.py').write_text(BIRDS)
    assert found()[4:] == ['boats.more.feed', 'boats.more.whistle'] and len(stamps) == 3

def test_unreadable_file(site):
    "A file that is no Python is left out, and so is a text that UTF-8 cannot hold."
    half = code(('half', 'Half a pair of \\ud800 characters.'), ('whole', 'The other half of them is here.'))
    install(site, 'boats', {'boats/good.py': BOATS, 'boats/half.py': half,
        'boats/bad.py': 'def f(:\n "a b"\n'})
    *_, (rows, _) = installed_functions('boats')
    assert [row['name'] for row in rows] == ['row_boat', 'sail', 'whole']

KILLED = """import os, signal, sys
from pathlib import Path
import numpy as np
from gte_nb import search_index
search_index.BLOCK = 3
calls = []
def encode(texts):
    calls.append(texts)
    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)
    return np.ones((len(texts), 2), np.float32)
search_index.kept_vectors([f'text {i}' for i in range(10)], encode, Path(sys.argv[1]))"""

def test_kill(tmp_path):
    "SIGKILL costs the block at which it came; a damaged block is computed again."
    killed = subprocess.run([sys.executable, '-c', KILLED, tmp_path], capture_output=True, text=True,
                            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    assert killed.returncode == -signal.SIGKILL and 'about' in killed.stderr, killed.stderr
    asked, texts = [], [f'text {i}' for i in range(10)]
    def encode(some):
        asked.extend(some)
        return np.full((len(some), 2), 2, np.float32)
    assert kept_vectors(texts, encode, tmp_path)[:, 0].tolist() == [1]*6 + [2]*4 and asked == texts[6:]
    sorted(tmp_path.glob('*.npz'))[0].write_bytes(b'damaged')
    asked.clear()
    assert len(kept_vectors(texts, encode, tmp_path)) == 10 and 3 <= len(asked) <= 4

def test_mined_corpus(environment, model, tmp_path, embedded):
    "The functions of a mined corpus, and of some of its packages; installed, they have the same vectors."
    mining.mine('boats,trees', tmp_path/'corpus')
    found = search.search('a tree', model, tmp_path/'corpus')
    assert {hit['module'] for hit in found.hits} == {'boats', 'trees'}
    only = search.search('a tree', model, tmp_path/'corpus', packages='boats')
    assert {hit['module'] for hit in only.hits} == {'boats'}
    embedded.clear()
    installed = search.search('a tree', model, packages='boats,trees')
    assert sorted(names(installed)) == sorted(names(found)) and not embedded

@pytest.mark.parametrize('kind', ['file', 'list', 'corpus'])
def test_documents(site, model, tmp_path, embedded, kind):
    "The documents of a file, of files, of a corpus without functions; each once, and only new ones are read."
    boats = ['Move a boat over the lake with oars.', 'Let the wind move a boat.', 'Let the wind move a boat.']
    trees = ['Cut an old tree down.', 'Plant a tree.']
    files = [rows_file(tmp_path/'boats.jsonl', boats), rows_file(tmp_path/'trees.jsonl', trees)]
    corpus = {'file': files[0], 'list': files, 'corpus': mining.open_corpus(files).folder}[kind]
    found = search.search('let the wind move', model, corpus)
    assert found.hits[0]['text'] == boats[1] and list(found.hits[0]) == ['score', 'text', 'package', 'name']
    assert len(found.hits) == len(embedded) == (2 if kind == 'file' else 4)
    embedded.clear()
    search.search('let the wind move', model, files)
    assert embedded == (trees if kind == 'file' else [])

@pytest.mark.parametrize('file, counts', [
    ('model.safetensors', True), ('tokenizer.json', True), ('1_Normalize/config.json', True),
    ('sentence_bert_config.json', True), ('README.md', False), ('run.png', False),
])
def test_model_key(model, tmp_path, file, counts):
    "Every file that decides vectors is in the key, others are not."
    folder = tmp_path/'model'
    Embedder.load(model).save(folder)
    before = model_hash(folder)
    assert before == model_hash(model)
    (folder/file).parent.mkdir(exist_ok=True)
    with open(folder/file, 'ab') as out: out.write(b' ')
    assert (model_hash(folder) != before) == counts

@pytest.mark.parametrize('asked, said', [
    *((dict(query=query), 'the query is empty') for query in ('', '  ')),
    *((dict(top=top), f'top is {top!r}') for top in (0, 2.5, True)),
    (dict(query_model='nothing'), 'nothing holds no embedding model'),
    (dict(query_model='narrow', texts='notes.jsonl'), 'narrow of 3; name a query model whose vectors'),
    (dict(query='a \udce9 tree'), 'half a char'),
    (dict(model='nothing'), 'holds no embedding model'), (dict(corpus='nothing'), 'holds no corpus'),
    (dict(corpus='mined', packages='tress'), 'not in the corpus: tress; it holds trees'),
    (dict(packages='tress'), 'not installed: tress'), (dict(packages='stones'), 'stones holds no public'),
    (dict(corpus='notes.jsonl', packages='trees'), "leave 'trees' out"),
    (dict(corpus='none.jsonl'), 'does not exist'),
    (dict(corpus=['mined', 'notes.jsonl']), 'cannot be joined'),
    (dict(texts='none.jsonl'), 'does not exist'), (dict(texts='notes.docx'), r'ends in \.docx; texts come '
    r'as \.jsonl'),
    (dict(texts='notes.jsonl', corpus='mined'), 'both --corpus and --texts'),
    (dict(texts='notes.jsonl', packages='trees'), "leave 'trees' out"),
    (dict(texts='titles.csv'), 'has the columns title; one of text, document, positive is needed'),
])
def test_refused(site, model, tmp_path, monkeypatch, capsys, asked, said):
    "One sentence, in Python and from the command."
    install(site, 'trees', {'trees.py': TREES})
    install(site, 'stones', {'stones.py': 'x = 1\n'})
    monkeypatch.chdir(tmp_path)
    Path('nothing').mkdir()
    if asked.get('query_model') == 'narrow':
        Embedder(StaticEncoder(400, 3), Embedder.load(model).tokenizer).save(Path('narrow'))
    Path('notes.docx').write_text('notes')
    Path('titles.csv').write_text('title\nbread\n')
    rows_file(Path('notes.jsonl'), ['Cut an old tree down.'])
    if 'mined' in asked.get('corpus', '') and 'texts' not in asked: mining.mine('trees', 'mined')
    asked = dict(query='cut a tree', model=str(model)) | asked
    with pytest.raises((ValueError, FileNotFoundError), match=said): search.search(**asked)
    with pytest.raises(SystemExit): gte_search(**asked)
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: ')

def test_changed_model(site, model, tmp_path, embedded):
    "A model that was trained again in its folder is asked anew."
    Embedder.load(model).save(tmp_path/'model')
    notes = texts_file(tmp_path/'notes.jsonl', ['Cut an old tree down.', 'Plant a tree.'])
    search.search('plant', tmp_path/'model', texts=notes)
    other = Embedder.load(tmp_path/'model')
    other.encoder.embedding.weight.data.neg_()
    other.save(tmp_path/'model')
    embedded.clear()
    assert search.search('plant', tmp_path/'model',
        texts=notes).hits[0]['text'] == 'Plant a tree.' and len(embedded) == 2

@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_index_is_exact(tmp_path, dtype):
    "Rows and scores are those of the whole matrix, in memory, from disk, in parts, and behind a filter."
    draw = np.random.default_rng(0)
    vectors, queries = draw.normal(size=(9_000, 8)).astype(dtype), draw.normal(size=(5, 8)).astype(np.float32)
    index = SearchIndex(vectors=vectors[:5_000])
    index.add(vectors=vectors[5_000:])
    index.save(tmp_path/'index')
    scores, marks = queries @ vectors.astype(np.float32).T, draw.random(9_000) < 0.3
    for some in (index, SearchIndex.open(tmp_path/'index')):
        for where, right in ((None, scores), (marks, np.where(marks, scores, -np.inf))):
            hits = some.search(queries, 7, where)
            order = np.argsort(-right, axis=1, kind='stable')[:, :7]
            assert (hits.rows == order).all()
            assert np.allclose(hits.scores, np.take_along_axis(scores, order, 1), atol=1e-5)

def index_in(folder, model):
    (index := SearchIndex(['Cut an old tree down.', dict(text='Plant a tree.', about='gardens')],
        model=model)).save(folder)
    return index

@pytest.mark.parametrize('break_it, said', [
    (lambda folder: (folder/'index.json').unlink(), 'holds no index'),
    (lambda folder: (folder/'index.json').write_text('{"format": 1'), 'is damaged'),
    (lambda folder: (folder/'index.json').write_text('{"format": 9}'), 'format 9, and 1 and 2 are known'),
    (lambda folder: os.truncate(next(folder.glob('vectors-*')), 200), r'vectors-\w+.npy has 200 bytes of'),
    (lambda folder: next(folder.glob('ends-*')).unlink(), 'is damaged'),
    *((lambda folder, model=model: (folder/'index.json').write_text(json.dumps(json.loads(
        (folder/'index.json').read_text()) | dict(model=model))), 'its model has no folder, hash or stamp')
        for model in ('folder', 7, [], {}, dict(folder=7, hash='', stamp=[]), dict(folder='model'))),
])
def test_damaged_index(model, tmp_path, break_it, said):
    index_in(tmp_path, model)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=said): SearchIndex.open(tmp_path)

@pytest.mark.parametrize('ask, said', [
    (lambda index: index.search(np.ones((1, 3), np.float32)), r'holds vectors of \d+ numbers, and these '
    r'have 3'),
    (lambda index: index.add(['a'], np.ones((1, 3))), 'and these have 3'),
    (lambda index: index.add(['a', 'b'], np.ones((1, index.width))), '2 texts and 1 vectors'),
    (lambda index: index.add([7]), 'text 0 is 7'),
    (lambda index: SearchIndex(vectors=np.full((2, 2), np.nan)), 'vector 0 holds NaN'),
    (lambda index: SearchIndex(vectors=np.ones((2, 2))).search('tree'), 'has vectors and no model'),
    (lambda index: SearchIndex(['a tree']).search('tree'), 'has no vectors'),
    (lambda index: index.search('tree', where=dict(abuot='x')), "rows have no key 'abuot'"),
    (lambda index: index.search('tree', where=np.ones(3, bool)), 'the filter has 3 marks, the index 2 rows'),
    (lambda index: index.search('tree', by='luck'), 'choose meaning, words or both'),
    (lambda index: index.search(np.ones((1, index.width)), by='both'), 'needs queries as texts'),
    *((lambda index, k=k: index.search('tree', k), f'k is {k!r}; give a whole number from 1 up')
        for k in (0, 2.5, '3', None, True)),
    *((lambda index, texts=texts: index.add(texts), f'texts come as {type(texts).__name__}; give a list')
        for texts in ('a b c', b'a b c', dict(text='a'), 7)),
    (lambda index: SearchIndex('a b c'), 'texts come as str'),
    (lambda index: index.search(7), 'queries come as int'),
    (lambda index: index.search(['tree', 7], by='words'), 'query 1 is 7'),
    *((lambda index, vectors=vectors: index.add(vectors=vectors), said) for vectors, said in (
        (['a', 'b'], 'vectors hold <U1 in place of numbers'), ([['a']], 'in place of numbers'),
        ([None], 'vectors hold object'), ([[1], [2, 3]], 'cannot be made an array'), (7, 'have the shape'))),
    (lambda index: SearchIndex([]).search('tree'), 'is empty, and has no model'),
    (lambda index: SearchIndex(['a tree'], model=7), 'int is no model'),
    *((lambda index, folder=folder: SearchIndex.open(folder), f'folder of an index is {folder!r}')
        for folder in (None, 7)),
    (lambda index: index.save(None), 'folder of an index is None'),
    (lambda index: index.save(__file__), r'test_search\.py is a file, and an index needs a folder'),
])
def test_index_refuses(model, ask, said):
    index = SearchIndex(['Cut an old tree down.', 'Plant a tree.'], model=model)
    with pytest.raises(ValueError, match=said): ask(index)

PAGES = [dict(text='a tree', page=1, read=True), dict(text='a bird', page=3), dict(text='a boat', note=None),
    dict(text='trees', page=3, tags=['green'])]

@pytest.mark.parametrize('where, rows', [
    (dict(page=3), {1, 3}), (dict(page=np.int64(3)), {1, 3}), (dict(page=[1, 3]), {0, 1, 3}),
    (dict(page=3, text='trees'), {3}), (dict(read=True), {0}), (dict(note=None), {2}),
    (dict(page=None), set()), ({}, {0, 1, 2, 3}),
    ([True, False, True, False], {0, 2}), ([3, 0, 3], {0, 3}), (np.array([2], np.uint8), {2}), ([], set()),
    (lambda row: row.get('page') == 3, {1, 3}),
    (dict(pages=3), "rows have no key 'pages'; is page meant"),
    (dict(zzz=3), "no key 'zzz'; they have note, page, read, tags, text"),
    (dict(tags='green'), 'a dictionary cannot compare; give a function'),
    (dict(page=[[1]]), 'a dictionary cannot compare'),
    ([True, False], 'the filter has 2 marks, the index 4 rows'),
    ([4], 'names row 4, and the index has 4 rows'), ([0, -1], 'names row -1'),
    *((where, 'the filter is .*; give a bool for each row, numbers of rows') for where in (
        'page', 3, True, {1, 2}, [0.5], ['page'], np.ones((4, 1), bool))),
    ([[1], [2, 3]], 'cannot be made an array'),
], ids=lambda case: repr(case)[:40])
def test_filters(where, rows):
    "Which rows a filter leaves, or what is wrong with it."
    index, query = SearchIndex(PAGES, np.ones((4, 2))), np.ones((1, 2))
    if isinstance(rows, set): assert set(index.search(query, 4, where).rows[0]) - {-1} == rows
    else:
        with pytest.raises(ValueError, match=rows): index.search(query, 4, where)

def test_no_rows(model, tmp_path):
    "An index may begin without rows, a search without queries, and there may be no vectors."
    for index in (SearchIndex([]), SearchIndex([], model=model, precision='int8')):
        index.save(tmp_path)
        assert (SearchIndex.open(tmp_path).search('tree', by='words').rows == -1).all()
    index = SearchIndex([])
    index.add(['a tree'], np.ones((1, 3)))
    assert index.search(np.ones((1, 3)), 1).rows == 0
    assert index.search([]).rows.shape == index.search([], by='words').rows.shape == (0, 10)
    SearchIndex(['a tree']).save(tmp_path)
    words = SearchIndex.open(tmp_path, model=Embedder.load(model))              # has no vectors to compare
    with pytest.raises(ValueError, match='some rows have vectors and others have none'): words.add(['a bird'])

def test_damaged_graph(tmp_path):
    "A graph that is damaged is named, and `link` makes it again."
    pytest.importorskip('usearch')
    vectors = np.eye(8, dtype=np.float32)
    (index := SearchIndex(vectors=vectors)).link()
    index.save(tmp_path)
    graph = next(tmp_path.glob('*.usearch'))
    graph.write_bytes(bytes(graph.stat().st_size))
    opened = SearchIndex.open(tmp_path)
    with pytest.raises(ValueError, match=r'usearch is damaged; call link\(\)'):
        opened.search(vectors, 1, approximate=True)
    opened.link()
    assert (opened.search(vectors, 1, approximate=True).rows[:, 0] == np.arange(8)).all()

@pytest.fixture
def student(model, tmp_path):
    "The folder of another model in the same space: twice the vectors, of the same directions."
    embedder = Embedder.load(model)
    embedder.encoder.embedding.weight.data *= 2
    embedder.save(folder := tmp_path/'student')
    return folder

def test_query_model(model, student, tmp_path):
    "Documents by one model, queries by another: a folder or an object; the first may then be gone."
    Embedder.load(model).save(teacher := tmp_path/'teacher')
    index_in(tmp_path/'index', teacher)
    right = SearchIndex.open(tmp_path/'index').search('plant', 2)
    narrow = Embedder(StaticEncoder(400, 3), Embedder.load(model).tokenizer)
    for gone in (False, True):
        if gone: teacher.rename(tmp_path/'gone')
        for some in (student, str(student), Embedder.load(student)):
            opened = SearchIndex.open(tmp_path/'index', query_model=some)
            assert np.allclose(opened.search('plant', 2).scores, right.scores)
            opened.save(tmp_path/f'again {gone}')
        with pytest.raises(ValueError, match='these have 3; give a query model whose vectors lie in the'):
            SearchIndex.open(tmp_path/'index', query_model=narrow).search('plant')
        header = json.loads((tmp_path/f'again {gone}'/'index.json').read_text())
        assert header['model']['folder'] == str(teacher)
    with pytest.raises(ValueError, match='holds no model'): opened.add(['Prune a tree.'])
    with pytest.raises(ValueError, match='holds no model'): SearchIndex.open(tmp_path/'index')
    (tmp_path/'gone').rename(teacher)
    opened.add(['Prune a tree.'])
    assert len(opened) == 3
    asked = SearchIndex(['Plant a tree.'], model=model, query_model=student)
    assert np.allclose(asked.search('plant', 1).scores, right.scores[:, :1])

def test_other_model(model, tmp_path):
    "An index of another model is refused by name, wherever the other one comes from."
    index_in(tmp_path/'index', model)
    other = Embedder.load(model)
    other.encoder.embedding.weight.data *= 2
    other.save(tmp_path/'other')
    with pytest.raises(ValueError, match='was made by the model'):
        SearchIndex.open(tmp_path/'index', tmp_path/'other')
    assert SearchIndex.open(tmp_path/'index', model).search('plant').rows[0, 0] == 1
    index_in(tmp_path/'unnamed', Embedder.load(model))               # the folder of an object is not known
    other.encoder.embedding.weight.data[:] = other.encoder.embedding.weight.data.flip(1)
    other.save(tmp_path/'other')
    for use in (lambda index: index.search('plant'), lambda index: index.save(tmp_path/'unnamed')):
        with pytest.raises(ValueError, match='other vectors than this index holds'):
            use(SearchIndex.open(tmp_path/'unnamed', tmp_path/'other'))
    SearchIndex.open(tmp_path/'unnamed', model).save(tmp_path/'named')
    assert SearchIndex.open(tmp_path/'named').search('plant').rows[0, 0] == 1

def test_damaged_weights(model, tmp_path):
    (tmp_path/'model.safetensors').write_bytes((model/'model.safetensors').read_bytes()[:500])
    with pytest.raises(ValueError, match='cannot be mapped'): map_tensors(tmp_path/'model.safetensors')
    with pytest.raises(ValueError, match='describes no model'): QueryModel(tmp_path)

def test_command_line():
    "What stands behind the options of the command."
    asked = anno_parser(gte_search, 'gte_search').parse_args(['a bar', '--packages', 'tqdm', '--top', '2',
        '--corpus', 'one.jsonl', '--corpus', 'two.jsonl', '--json'])
    assert (asked.query, asked.packages, asked.top, asked.corpus, asked.json, asked.quick) == ('a bar',
        'tqdm', 2,
        ['one.jsonl', 'two.jsonl'], True, False)
    assert anno_parser(gte_search, 'gte_search').parse_args(['--texts', 'one.txt']).query is None  # after ""

def test_command(environment, model, student, tmp_path, monkeypatch, capsys):
    "The command names the model and the places that there are, and shows texts as well as functions."
    monkeypatch.setattr(search, 'runs_folder', lambda: tmp_path/'runs')
    monkeypatch.setattr(search, 'default_model', lambda: model)
    gte_search('cut an old tree down', top=1, quick=True)
    assert capsys.readouterr().out.startswith('model: none yet, shared words (BM25) in 6 texts')
    gte_search('cut an old tree down', top=1)
    out = capsys.readouterr().out
    assert f'no finished model of your own in {tmp_path/"runs"} yet' in out and 'trees.fell' in out
    notes = texts_file(tmp_path/'notes.jsonl', ['Cut an old tree down. ' * 30])
    gte_search('cut an old tree down', texts=[str(notes)], top=1)
    out = capsys.readouterr().out
    assert 'notes.jsonl 1' in out and out.rstrip().endswith('…') and len(out.splitlines()) == 5
    gte_search('cut an old tree down', texts=[str(notes)], top=1, json=True)
    assert json.loads(capsys.readouterr().out)['hits'][0]['row'] == 1
    gte_search('zebra', texts=[str(texts_file(tmp_path/'other.jsonl', ['Plant a tree.']))], quick=True)
    assert 'nothing: no text shares a word with the query; without --quick' in capsys.readouterr().out
    gte_search('cut an old tree down', texts=[str(notes)], query_model=str(student))
    out = capsys.readouterr().out
    assert f'model: {model}, queries by {student}' in out and 'notes.jsonl 1' in out
    lines = show_hits(search.search('tree', model, texts=notes).hits, 40).splitlines()
    assert max(map(len, lines)) <= 40

SCRIPT = """import atexit, os, sys
from gte_nb.search import gte_search
HEAVY = {'torch', 'pandas', 'pyarrow', 'scipy', 'bm25s', 'matplotlib'}
atexit.register(lambda: print(sum(os.times()[:2]), *HEAVY & set(sys.modules), file=sys.stderr))
if __name__ == '__main__': sys.exit(gte_search())
"""

def test_warm_command(tmp_path):
    "A question to an index that is there costs at most 1.2 CPU seconds, and imports nothing heavy."
    (script := tmp_path/'gte_search').write_text(SCRIPT)                        # as pip writes it
    texts_file(tmp_path/'notes.jsonl', [f'{i} boats cross the lake.' for i in range(40)] + ['A tiny ship.'])
    command = [sys.executable, script, 'a small boat', '--texts', tmp_path/'notes.jsonl', '--json', '--top',
        '1']
    environment = dict(os.environ, GTE_NB_CACHE=str(tmp_path/'cache'), PYTHONPATH=os.pathsep.join(sys.path))
    def ask():
        asked = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert asked.stdout and json.loads(asked.stdout)['final'], asked.stderr
        return asked.stderr.split()
    assert 'torch' in ask()                                                     # which made the index
    seconds, *heavy = zip(*(ask() for _ in range(3)))
    assert not heavy and statistics.median(map(float, seconds)) < 1.2

def test_a_damaged_file_of_functions_is_read_again(environment):
    "A kept list of functions that is cut off is made again, and the others are not touched."
    *_, (whole, _) = installed_functions('boats')
    file = functions._kept_file('boats')
    file.write_bytes(file.read_bytes()[:40])
    *_, (again, _) = installed_functions('boats')
    assert again == whole and functions.json_lines(file)

@pytest.mark.parametrize('name, content', [('tokenizer.json', '{'), ('query.json', '{}'),
    ('query.json', None)])
def test_a_damaged_description_is_one_sentence(model, tmp_path, name, content):
    SearchIndex(['a boat on the lake'], model=model).save(tmp_path/'index')
    file = tmp_path/'index'/name
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ValueError, match='describes no model .*build the index again'):
        QueryModel(tmp_path/'index')

def test_a_damaged_index_of_an_environment_is_built_again(environment, model):
    found = search.search('cut an old tree down', model)
    for file in answers.cache_folder().glob('search/*/tokenizer.json'): file.write_text('{')
    answers._kept_open.cache_clear()
    assert search.search('cut an old tree down', model) == found

def test_an_index_does_not_move_into_the_folder_of_a_model(model):
    before = model_hash(model)
    with pytest.raises(ValueError, match='holds a model.*name another folder'):
        SearchIndex(['a boat', 'a tree'], model=model).save(model)
    assert model_hash(model) == before

def test_a_query_without_a_known_token_finds_nothing(model, tmp_path, capsys):
    table = Embedder.load(model)
    Embedder(table.encoder, table.tokenizer, settings=Settings(skip_unknown=True)).save(tmp_path/'model')
    index = SearchIndex(['a boat', 'a tree'], model=tmp_path/'model')
    assert (index.search(['日', 'boat'], k=2).rows == [[-1, -1], [0, 1]]).all()
    file = texts_file(tmp_path/'some.jsonl', ['a boat', 'a tree'])
    gte_search('日', str(tmp_path/'model'), texts=[str(file)])
    assert 'the model knows no word of the query' in capsys.readouterr().out
