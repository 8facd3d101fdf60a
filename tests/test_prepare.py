"Files of any size become a corpus: by shards, in any number of processes, and after a kill the same."
import importlib.util, json, os, signal
os.environ |= dict(HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from forked import Run, refused
from gte_nb.data import prepare as module
from gte_nb.data.files import Source, from_files
from gte_nb.data.prepare import prepare
from gte_nb.data.tokens import column_table, source_tables, train_tokenizer, write_source_tables
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import StaticEncoder
from gte_nb.training.command import gte_prepare
from gte_nb.utils import complain, os_errors_said

ROWS = [dict(query=f'question {i % 180}', document=f'answer {i % 180} of them') for i in range(200)]
TOKENIZER = train_tokenizer([f'{row["query"]} {row["document"]}' for row in ROWS], 300, special_tokens=False)

@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch): monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))

def lines(file, rows):
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    return file

@pytest.fixture
def source(tmp_path):
    "Two hundred rows, twenty of them copies, in a file of lines and one of three row groups."
    pd.DataFrame(ROWS[120:]).to_parquet(tmp_path/'b.parquet', row_group_size=30)
    return Source('rows', (lines(tmp_path/'a.jsonl', ROWS[:120]), tmp_path/'b.parquet'))

def table(corpus, column='query'):
    embedder = Embedder(StaticEncoder(300, 2), TOKENIZER, 16)
    return [ids.tolist() for ids in column_table(embedder, corpus, 'rows', column, 16)[:]]

def told(corpus):
    "All that must not depend on shards and processes."
    manifest = {name: corpus.manifest[name] for name in ('fingerprints', 'order', 'rows', 'skipped', 'notes')}
    return corpus.fingerprint, manifest, corpus.pairs('rows').to_dict('records')

def refusal(function, *arguments, **how):
    with pytest.raises(ValueError) as error: function(*arguments, **how)
    return str(error.value)

@pytest.mark.parametrize('workers, shard', [(1, 1), (3, 7), (1, 50)])
def test_shards_and_processes_change_nothing(tmp_path, source, workers, shard):
    whole = prepare([source], tmp_path/'whole', 0.1)
    parts = prepare([source], tmp_path/'parts', 0.1, workers, shard=shard)
    assert len(parts.manifest['shards']['rows']) > len(whole.manifest['shards']['rows']) == 2
    assert told(parts) == told(whole) and whole.manifest['rows'] == {'rows': dict(train=162, validation=18)}
    assert table(parts) == table(whole) and len(table(whole)) == 162
    pairs = parts.pairs('rows', 'train')
    assert parts.row('rows', 161, 'train')['query'] == pairs['query'][161]
    assert whole.manifest['skipped'] == {'copy of another row': dict(rows=20, file='b.parquet', row=61,
        value="{'query': 'question 0', 'document': 'answer 0 of them'}")}

def test_a_killed_one_goes_on_with_the_next_shard(tmp_path, source, monkeypatch):
    whole, place = prepare([source], tmp_path/'whole', shard=9), tmp_path/'killed'/'rows'
    write = module._write_shard
    def until(shards):
        def dies(*arguments):
            write(*arguments)
            if len(list(place.glob('[!.]*.parquet'))) == shards: os.kill(os.getpid(), signal.SIGKILL)
        module._write_shard = dies
        prepare([source], tmp_path/'killed', shard=9)
    for shards in (3, 16):                                                  # in a text file, in row groups
        assert Run(until, shards).wait()[0] == -signal.SIGKILL
        assert len(list(place.glob('[!.]*.parquet'))) == shards and list(place.glob('.*.parquet'))
        assert 'holds no corpus' in refusal(module.Corpus, tmp_path/'killed')
    written = []
    monkeypatch.setattr(module, '_write_shard', lambda *all: written.append(write(*all)))
    corpus = prepare([source], tmp_path/'killed', shard=9)
    assert len(written) == len(corpus.manifest['shards']['rows']) - 16
    assert told(corpus) == told(whole) and table(corpus) == table(whole) and not list(
        place.glob('.*.parquet'))

def test_a_killed_table_goes_on_with_the_next_part(tmp_path, source):
    corpus, folder = prepare([source], tmp_path/'corpus', shard=20), tmp_path/'cache'/'tokens'
    def dies():
        tokenize = Embedder.tokenize
        def counting(self, texts, *more, **how):
            if len(list(folder.glob('*/[!.]*/ids.npy'))) == 4: os.kill(os.getpid(), signal.SIGKILL)
            return tokenize(self, texts, *more, **how)
        Embedder.tokenize = counting
        table(corpus)
    assert Run(dies).wait()[0] == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in folder.glob('*/[!.]*/ids.npy')}
    assert len(kept) == 4
    ids = table(corpus)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert ids == table(prepare([source], tmp_path/'whole'))

def test_a_full_disk_keeps_finished_shards(tmp_path, source):
    def work():
        try:
            with os_errors_said(): prepare([source], tmp_path/'corpus', shard=100)
        except ValueError as error: complain(error)
    first = sorted((tmp_path/'corpus').glob('rows/*.parquet'))
    prepare([source], tmp_path/'other', shard=100)
    sizes = sorted(file.stat().st_size for file in (tmp_path/'other').glob('rows/*.parquet'))
    said = refused(Run(work, files=sizes[-1] - 1))
    assert 'make room' in said and not first
    assert not list((tmp_path/'corpus').rglob('.*.parquet'))                # what is half has gone
    assert told(prepare([source], tmp_path/'corpus', shard=100)) == told(prepare([source], tmp_path/'other'))

def test_buckets_change_nothing(tmp_path, source, monkeypatch):
    "Hashes are compared in as many buckets as it takes."
    whole = prepare([source], tmp_path/'whole', 0.1)
    monkeypatch.setattr(module, '_BUCKET', 20)
    assert told(prepare([source], tmp_path/'buckets', 0.1)) == told(whole)

def test_the_order_of_files_decides_nothing_but_the_order(tmp_path, source):
    "Neither which rows are for validation nor which are beyond the cap."
    def chosen(files, cap=None):
        corpus = prepare([Source('rows', files, cap=cap)], validation=0.1)
        return corpus, [sorted(corpus.pairs('rows', split)['query']) for split in ('train', 'validation')]
    for cap in (None, 30):
        (one, there), (other, back) = chosen(source.files, cap), chosen(source.files[::-1], cap)
        assert there == back and one.fingerprint == other.fingerprint
        assert one.manifest['order'] != other.manifest['order'] and table(one) != table(other)
    assert len(there[0]) == 30 and len(there[1]) == 18
    assert '132 rows of rows are beyond its cap of 30' in one.manifest['notes']

def test_copies_and_splits(tmp_path):
    "A copy stays in the split that comes first; rows of a pair with other negatives stay on one side."
    rows = [dict(query='q', document='d', split=split) for split in ('train', 'test', 'train')]
    corpus = prepare([Source('rows', (lines(tmp_path/'a.jsonl', rows),))], validation=0.5)
    assert corpus.manifest['rows'] == {'rows': dict(test=1)}
    rows = [dict(query=f'q{i % 40}', document='d', negative=f'n{i}') for i in range(160)]
    corpus = prepare([Source('rows', (lines(tmp_path/'b.jsonl', rows),))], validation=0.5)
    train, validation = ({*corpus.pairs('rows', split)['query']} for split in ('train', 'validation'))
    assert not train & validation and len(train) + len(validation) == 40 and 10 < len(validation) <= 20
    assert not corpus.manifest['skipped']

def test_ids_are_unique_in_all_files(tmp_path):
    files = [lines(tmp_path/f'{name}.jsonl', [dict(query=f'{name}{i}', document='d', id=i) for i in range(9)])
             for name in 'ab']
    corpus = prepare([Source('rows', tuple(files))], shard=2)
    assert set(corpus.pairs('rows')['package']) == {'a.jsonl'} and len(corpus.pairs('rows')) == 9
    assert corpus.manifest['skipped']['duplicate id'] == dict(rows=9, file='b.jsonl', row=1,
        value="{'query': 'b0', 'document': 'd', 'id': '0'}")

def test_files_of_one_name_are_told_apart(tmp_path):
    for folder in 'ab':
        (tmp_path/folder).mkdir()
        rows = [dict(query=folder, document='d'), dict(query='q'), ['no object']]
        lines(tmp_path/folder/'rows.jsonl', rows)
    corpus = prepare([Source('rows', tuple(tmp_path/folder/'rows.jsonl' for folder in 'ab'))])
    assert corpus.manifest['skipped'] == {fault: dict(rows=2, file=str(tmp_path/'a'/'rows.jsonl'), row=row,
        value=value) for fault, row, value in (('one-sided', 2, "{'query': 'q'}"),
                                               ('no JSON object', 3, repr('["no object"]\n')))}

def test_prefixes_are_part_of_the_texts(tmp_path, source):
    other = Source('rows', source.files, query_prefix='query: ', document_prefix='passage: ')
    bare, corpus = prepare([source]), prepare([other])
    assert corpus.pairs('rows')['query'].str.startswith('query: question').all()
    assert corpus.pairs('rows')['document'].str.startswith('passage: answer').all()
    assert corpus.fingerprint != bare.fingerprint and table(corpus) != table(bare)

def test_found_again_without_reading(tmp_path, source, monkeypatch):
    corpus = prepare([source])
    for name in ('_read_part', '_content'): monkeypatch.setattr(module, name, lambda job: 1/0)
    assert prepare([source]).manifest == corpus.manifest
    monkeypatch.undo()
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    os.utime(source.files[0], (1, 1))                                       # another time, the same bytes
    monkeypatch.setattr(module, '_read_part', lambda job: 1/0)
    assert prepare([source]).manifest == corpus.manifest

def test_what_has_changed_is_read_again_and_nothing_else(tmp_path, source, monkeypatch):
    prepare([source])
    lines(source.files[0], [*ROWS[:120], dict(query='new', document='row')])
    read, real = [], module._write_shard
    monkeypatch.setattr(module, '_write_shard', lambda part,
        *more: read.append(part.path) or real(part, *more))
    assert prepare([source]).manifest['rows'] == {'rows': dict(train=181)}
    assert set(read) == {source.files[0]}
    other = Source('other', (lines(tmp_path/'c.jsonl', ROWS),))
    both = prepare([source, other])                                         # each source is found by itself
    assert set(read) == {source.files[0], *other.files} and len(both.manifest['rows']) == 2
    before = {file: file.stat().st_mtime_ns for file in (tmp_path/'cache').rglob('*-*.parquet')}
    assert len(before) == 3 and all(file.exists() for file in before)       # what was replaced is gone

def test_a_small_source_has_no_validation_rows(tmp_path):
    assert 'validation' not in prepare([Source('few', (lines(tmp_path/'a.jsonl', ROWS[:99]),))]).manifest[
        'rows']['few']
    many = [dict(query=f'q{i}', document='d') for i in range(2_500)]
    corpus = prepare([Source('many', (lines(tmp_path/'b.jsonl', many),))], validation=0.9)
    assert corpus.manifest['rows']['many'] == dict(train=1_500, validation=1_000)

REFUSED = {
    'no source': (lambda folder, source: [], {}, 'there is no source'),
    'a name twice': (lambda folder, source: [source, source], {}, 'two sources are called rows'),
    'a file twice': (lambda folder, source: [Source('a', source.files[:1]*2)], {}, 'twice; once will do'),
    'a name with a slash': (lambda folder, source: [Source('a/b', source.files)], {}, "called 'a/b'"),
    'no file': (lambda folder, source: [Source('a', ())], {}, 'source a needs at least one file'),
    'missing': (lambda folder, source: [Source('a', (folder/'none.csv',))], {}, 'none.csv does not exist'),
    'cap': (lambda folder, source: [Source('a', source.files, cap=0)], {}, 'has the cap 0'),
    'column': (lambda folder, source: [Source('a', source.files, 'title')], {},
               "has the columns query, document, and source a names 'title'"),
    'negatives': (lambda folder, source: [Source('a', source.files, negatives=('hard',))], {},
    "names 'hard'"),
    'unreadable': (lambda folder, source: [Source('a', (lines(folder/'b.parquet', ROWS),))], {},
    'cannot be read'),
    'validation': (lambda folder, source: [source], dict(validation=1), 'validation is 1'),
    'engine': (lambda folder, source: [source], dict(engine='spark'), "the engine is 'spark'"),
    'another folder': (lambda folder, source: [source], dict(folder=1), 'holds other things'),
}

@pytest.mark.parametrize('make, how, sentence', REFUSED.values(), ids=REFUSED)
def test_refusals(tmp_path, source, make, how, sentence):
    if 'folder' in how: how = dict(folder=tmp_path)
    assert sentence in refusal(lambda: prepare(make(tmp_path, source), **how))

def test_a_bad_file_among_good_ones(tmp_path, source):
    "In processes, too, it is one sentence, and the good files are not read again."
    bad = Source('bad', (lines(tmp_path/'bad.jsonl', [dict(query='q', document='d', label=2)]),))
    assert 'bad.jsonl, row 1 has the label 2' in refusal(prepare, [source, bad], tmp_path/'all', workers=2)
    lines(bad.files[0], [dict(query='q', document='d', label=1)])
    assert prepare([source, bad], tmp_path/'all').manifest['rows']['bad'] == dict(train=1)

def test_a_folder_of_another_kind(tmp_path, source):
    (tmp_path/'mined').mkdir()
    (tmp_path/'mined'/'corpus.json').write_text('{"miner": 4}')
    assert 'holds a mined corpus' in refusal(prepare, [source], tmp_path/'mined')

def test_from_files_is_one_source(tmp_path, source):
    corpus = from_files(list(source.files), name='rows')
    assert corpus.manifest['rows'] == {'rows': dict(train=180)}
    assert corpus.fingerprint == prepare([source], validation=0).fingerprint
    assert 'pair_hash' not in corpus.pairs('rows') and np.isin(['row', 'package'],
        corpus.pairs('rows').columns).all()

@pytest.mark.skipif(not importlib.util.find_spec('ray'), reason='ray is not installed')
def test_ray(tmp_path, source):
    whole = prepare([source], tmp_path/'whole', 0.1)
    ray = prepare([source], tmp_path/'ray', 0.1, workers=2, engine='ray', shard=20)
    assert told(ray) == told(whole)
    bad = Source('bad', (lines(tmp_path/'bad.jsonl', [dict(query='q', document='d', label=2)]),))
    assert 'row 1 has the label 2' in refusal(prepare, [bad], workers=2, engine='ray')
    assert written(ray, 'ray') == 324

def written(corpus, engine='local'):
    "How many texts become token ids ahead of training, which then writes no table."
    embedder = Embedder(StaticEncoder(300, 2), TOKENIZER, 16)
    recipe = SimpleNamespace(sources=('rows',), query_tokens=16, document_tokens=16, clean=True)
    texts = write_source_tables(embedder, corpus, recipe, engine)
    tables = Path(os.environ['GTE_NB_CACHE'])/'tokens'
    times = {file: file.stat().st_mtime_ns for file in tables.rglob('*.npy')}
    queries, documents = source_tables(embedder, corpus, recipe)[0]
    assert times == {file: file.stat().st_mtime_ns for file in tables.rglob('*.npy')}
    assert len(queries) + len(documents) == texts
    return texts

@pytest.mark.parametrize('shard, files', [(100_000, 8), (20, 36)])
def test_token_tables_ahead_of_training(tmp_path, source, shard, files):
    corpus = prepare([source], tmp_path/'corpus', 0.1, shard=shard)
    assert written(corpus) == 324 and len(list((tmp_path/'cache'/'tokens').rglob('*.npy'))) == files

def test_the_command_makes_them(tmp_path, source, capsys):
    (tmp_path/'sources.toml').write_text('[rows]\nfiles = ["a.jsonl", "b.parquet"]\n')
    gte_prepare(str(tmp_path/'sources.toml'), tokens='laptop')
    assert 'token tables of 360 texts, as stage 1 of laptop reads them' in capsys.readouterr().out
    assert list((tmp_path/'cache'/'tokens').glob('rows-query-*'))
    with pytest.raises(SystemExit): gte_prepare(str(tmp_path/'sources.toml'), tokens='paper')
    assert "tokens names the recipe 'paper', which is none of laptop" in capsys.readouterr().err

@pytest.mark.skipif(importlib.util.find_spec('ray') is not None, reason='ray is installed')
def test_without_ray(source): assert 'pip install' in refusal(prepare, [source], engine='ray')
