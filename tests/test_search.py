"Search: what is searched, which vectors are computed, what is said; with tiny packages and a static model."
import json
from importlib import metadata
from pathlib import Path

import numpy as np, pytest, torch
import test_mining
from fastcore.script import anno_parser
from test_mining import BIRDS, BOATS, PACKAGES, TREES, install, kept

from gte_nb import search, search_index
from gte_nb.data import mining
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import StaticEncoder
from gte_nb.model.identity import model_hash
from gte_nb.search import gte_search, index_texts, show_hits

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
    "All texts whose vectors the index computes; queries go through `encode`, which passes more arguments on."
    texts, stream = [], Embedder.encode_stream
    def encode_stream(self, some, *arguments, **how):
        if not arguments: texts.extend(some)
        return stream(self, some, *arguments, **how)
    monkeypatch.setattr(Embedder, 'encode_stream', encode_stream)
    return texts

@pytest.fixture
def environment(site, monkeypatch):
    "An environment of three packages; Python itself is left out, which would take seconds."
    for name, text in PACKAGES.items(): install(site, name, {f'{name}.py': text})
    every, files = metadata.distributions, mining.python_files
    monkeypatch.setattr(metadata, 'distributions', lambda: every(path=[str(site)]))
    monkeypatch.setattr(mining, 'python_files', lambda package: [] if package == 'python' else files(package))
    return site

def rows_file(file, documents):
    "A file of rows as gte_pretrain takes it."
    rows = [dict(query=f'question {i}', document=text) for i, text in enumerate(documents)]
    file.write_text('\n'.join(map(json.dumps, rows)))
    return file

@pytest.mark.parametrize('groups, blocks', [
    ('', []), ('a', [(0, 1)]), ('aab', [(0, 2), (2, 3)]), ('aaab', [(0, 3), (3, 4)]),
    ('aaaaaaab', [(0, 3), (3, 6), (6, 7), (7, 8)]),
])
def test_blocks(monkeypatch, groups, blocks):
    "A block never crosses two packages and has at most BLOCK texts."
    monkeypatch.setattr(search_index, 'BLOCK', 3)
    assert search_index._blocks(list(groups)) == blocks

def test_index(model, tmp_path, monkeypatch, embedded):
    "Vectors are those of `encode`; what changed is computed, what is interrupted goes on."
    monkeypatch.setattr(search_index, 'BLOCK', 3)
    monkeypatch.setattr('gte_nb.model.embedder.WINDOW', 2)
    embedder, texts = Embedder.load(model), [f'a boat with {i} oars.' for i in range(20)]
    right = embedder.encode(texts).astype(np.float16)
    window = Embedder._window
    def interrupted(self, some, first, *arguments):
        if first >= 10: raise KeyboardInterrupt
        return window(self, some, first, *arguments)
    monkeypatch.setattr(Embedder, '_window', interrupted)
    with pytest.raises(KeyboardInterrupt): index_texts(texts, embedder, tmp_path)
    monkeypatch.setattr(Embedder, '_window', window)
    assert len(list(tmp_path.iterdir())) == 3                               # ten texts are three whole blocks
    embedded.clear()
    assert (index_texts(texts, embedder, tmp_path) == right).all() and embedded == texts[9:]
    embedded.clear()
    assert (index_texts(texts, embedder, tmp_path) == right).all() and not embedded
    texts[4] = 'a boat with a sail.'
    assert (index_texts(texts, embedder, tmp_path) == embedder.encode(texts).astype(np.float16)).all()
    assert embedded == texts[3:6]
    assert index_texts([], embedder, tmp_path).shape == (0, embedder.hidden_size)

def test_environment(environment, model, embedded, capsys):
    "By default every installed package is searched; one that is new or changed costs its own functions only."
    found = search.search('cut an old tree down', model, top=6)
    assert found['name'][0] == 'fell' and len(found) == 6 and len(embedded) == 6
    assert sorted(set(found['module'])) == ['birds', 'boats', 'trees']
    assert 'Indexing 6 of 6 texts' in capsys.readouterr().err
    embedded.clear()
    assert search.search('cut an old tree down', model, top=6).equals(found) and not embedded
    changed = BOATS.replace('over the lake with', 'across it with')
    install(environment, 'boats', {'boats.py': changed}, version='2.0')
    (environment/'boats-1.0.dist-info').rename(environment/'gone')
    install(environment, 'kites', {'kites.py': BIRDS.replace('bird', 'kite')})
    assert len(search.search('cut an old tree down', model)) == 8
    names = ['boats row boat', 'boats sail', 'kites feed', 'kites whistle']
    assert sorted(text.split(':')[0] for text in embedded) == names

def test_packages(environment, model):
    "Only the packages that are named are mined, and only their code."
    found = search.search('cut an old tree down', model, packages='trees, boats')
    assert set(found['module']) == {'trees', 'boats'}
    assert sorted(name.rsplit('-', 1)[0] for name in kept()) == ['boats-1.0-code', 'trees-1.0-code']

def test_mined_corpus(environment, model, tmp_path, embedded):
    "The functions of a mined corpus, and of some of its packages; installed, they have the same vectors."
    mining.mine('boats,trees', tmp_path/'corpus')
    hits = search.search('a tree', model, tmp_path/'corpus')
    assert set(hits['module']) == {'boats', 'trees'}
    assert set(search.search('a tree', model, tmp_path/'corpus', packages='boats')['module']) == {'boats'}
    embedded.clear()
    assert search.search('a tree', model, packages='boats,trees').equals(hits) and not embedded

@pytest.mark.parametrize('kind', ['file', 'list', 'corpus'])
def test_documents(site, model, tmp_path, embedded, kind):
    "The documents of a file, of files, of a corpus without functions; each once, and only new ones are read."
    boats = ['Move a boat over the lake with oars.', 'Let the wind move a boat.', 'Let the wind move a boat.']
    trees = ['Cut an old tree down.', 'Plant a tree.']
    files = [rows_file(tmp_path/'boats.jsonl', boats), rows_file(tmp_path/'trees.jsonl', trees)]
    corpus = {'file': files[0], 'list': files, 'corpus': mining.open_corpus(files).folder}[kind]
    found = search.search('let the wind move', model, corpus)
    assert found['document'][0] == boats[1] and list(found) == ['score', 'package', 'name', 'document']
    assert len(found) == len(embedded) == (2 if kind == 'file' else 4)
    assert set(found['package']) == {file.name for file in (files[:1] if kind == 'file' else files)}
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
    (dict(query='  '), 'the query is empty'), (dict(top=0), 'top is 0'),
    (dict(model='nothing'), 'holds no embedding model'), (dict(corpus='nothing'), 'holds no corpus'),
    (dict(corpus='mined', packages='tress'), 'not in the corpus: tress; it holds trees'),
    (dict(packages='tress'), 'not installed: tress'), (dict(packages='stones'), 'stones holds no public'),
    (dict(corpus='notes.jsonl', packages='trees'), "leave 'trees' out"),
    (dict(corpus='none.jsonl'), 'does not exist'),
    (dict(corpus=['mined', 'notes.jsonl']), 'cannot be joined'),
])
def test_refused(site, model, tmp_path, monkeypatch, capsys, asked, said):
    "One sentence, in Python and from the command."
    install(site, 'trees', {'trees.py': TREES})
    install(site, 'stones', {'stones.py': 'x = 1\n'})
    monkeypatch.chdir(tmp_path)
    Path('nothing').mkdir()
    rows_file(Path('notes.jsonl'), ['Cut an old tree down.'])
    if 'mined' in asked.get('corpus', ''): mining.mine('trees', 'mined')
    asked = dict(query='cut a tree', model=str(model)) | asked
    with pytest.raises((ValueError, FileNotFoundError), match=said): search.search(**asked)
    with pytest.raises(SystemExit): gte_search(**asked)
    assert capsys.readouterr().err.splitlines()[-1].startswith('error: ')

def test_command_line():
    "What stands behind the options of the command."
    asked = anno_parser(gte_search, 'gte_search').parse_args(['a bar', '--packages', 'tqdm', '--top', '2',
        '--corpus', 'one.jsonl', '--corpus', 'two.jsonl'])
    assert (asked.query, asked.packages, asked.top, asked.corpus) == ('a bar', 'tqdm', 2,
        ['one.jsonl', 'two.jsonl'])

def test_command(environment, model, tmp_path, monkeypatch, capsys):
    "The command names the places that there are, and shows documents as well as functions."
    monkeypatch.setattr(search, 'runs_folder', lambda: tmp_path/'runs')
    monkeypatch.setattr(search, 'default_model', lambda: model)
    gte_search('cut an old tree down', top=1)
    out = capsys.readouterr().out
    assert f'no finished model of your own in {tmp_path/"runs"} yet' in out and 'trees.fell' in out
    notes = rows_file(tmp_path/'notes.jsonl', ['Cut an old tree down. ' * 30])
    gte_search('cut an old tree down', corpus=[str(notes)], top=1)
    out = capsys.readouterr().out
    assert 'notes.jsonl' in out and out.rstrip().endswith('…') and len(out.splitlines()) == 5
    lines = show_hits(search.search('tree', model, notes), 40).splitlines()
    assert max(map(len, lines)) <= 40
