"Sources by name: what a file of sources may say, what it may not, and what the commands do with it."
import json, os, shutil, signal, sys, tomllib
from dataclasses import replace
from pathlib import Path

import datasets, pandas as pd, pyarrow.parquet as pq, pytest
from forked import ROWS, Run, done, finetune, pretrain, refused, write
from gte_nb.data import sources as module
from gte_nb.data.mining import open_corpus
from gte_nb.data.registry import registry
from gte_nb.data.sources import Sources
from gte_nb.data.tokens import source_tables
from gte_nb.training import command, triples
from gte_nb.training.checkpoints import finished_run
from gte_nb.training.recipes import RECIPES, chosen_sources
from gte_nb.training.stages import run_stage
from gte_nb.training.start import start_embedder

PAPER = Path(__file__).resolve().parents[1]/'data/paper-sources.toml'
SAILS = [dict(title=f'{verb} the {sail}', body=f'{verb}: the {sail} goes where the {verb} wants it', notes=i)
         for i, sail in enumerate('jib main genoa spinnaker storm staysail'.split())
         for verb in 'hoist lower reef trim ease furl'.split()]

@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with files of two sources, and a cache."
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('GTE_NB_HUB_DATA', raising=False)
    monkeypatch.chdir(tmp_path)
    write(tmp_path/'files.jsonl', ROWS)
    (tmp_path/'sails').mkdir()
    for i in range(2): pd.DataFrame(SAILS[i::2]).to_parquet(tmp_path/f'sails/{i}.parquet')
    return tmp_path

TWO = """validation = 0
[files]
files = "files.jsonl"
[sails]
files = "sails/*.parquet"
query = "title"
document = "body"
"""

# what is read

def test_a_file_of_two_sources(place):
    (place/'sub').mkdir()
    (place/'sub/sources.toml').write_text(TWO.replace('files = "', 'files = "../'))       # beside the file
    corpus = Sources.open('sub/sources.toml').corpus()
    assert corpus.manifest['rows'] == dict(files=dict(train=32), sails=dict(train=36))
    assert sorted(corpus.pairs('sails')['query']) == sorted(row['title'] for row in SAILS)
    assert open_corpus(tomllib.loads(TWO)).fingerprint == corpus.fingerprint                    # a dict
    assert open_corpus(place/'sub/sources.toml').fingerprint == corpus.fingerprint
    assert open_corpus(Sources.open(tomllib.loads(TWO))).fingerprint == corpus.fingerprint

def test_every_key_arrives(place):
    table = dict(files=['sails/1.parquet', 'sails/*.parquet'], query='title', document='body',
        negatives='notes',
        cap=5, query_prefix='query: ', document_prefix='passage: ', quoting='none')
    source, = Sources.open(dict(sails=table)).found()
    assert [file.name for file in source.files] == ['1.parquet', '0.parquet']
    assert source.negatives == ('notes',) and (source.cap, source.quoting) == (5, 'none')
    assert (source.query_prefix, source.document_prefix) == ('query: ', 'passage: ')
    bare, = Sources.open(dict(files=dict(files=Path('files.jsonl'), negatives=[]))).found()
    assert (bare.query, bare.document, bare.negatives, bare.cap) == (None, None, (), None)

def test_a_pattern_passes_over_folders(place):
    (place/'deep'/'x.jsonl').mkdir(parents=True)
    (place/'deep'/'y.jsonl').write_text('{"query": "q", "document": "d"}\n')
    source, = Sources.open(dict(deep=dict(files='deep/*.jsonl'))).found()
    assert [file.name for file in source.files] == ['y.jsonl']

def test_a_source_with_a_wrong_letter(place):
    corpus = open_corpus(['files.jsonl'])
    with pytest.raises(ValueError, match='has no source fils; did you mean files?'):
        chosen_sources(corpus, replace(RECIPES['laptop'][0], sources=('fils',)))

def test_a_saved_data_set(place):
    datasets.Dataset.from_list(ROWS).save_to_disk(place/'saved')
    corpus = Sources.open(dict(rows=dict(dataset='saved'), validation=0)).corpus()
    assert corpus.manifest['rows'] == dict(rows=dict(train=32))

def test_a_source_of_a_mined_corpus(place):
    rows = pd.DataFrame(ROWS).assign(module='m', package='p', name='n', split=['train', 'validation']*16,
        flags=[0]*30 + [1]*2)
    (place/'mined').mkdir()
    rows.to_parquet(place/'mined/see_also.parquet')
    (place/'mined/corpus.json').write_text(json.dumps(dict(miner=4, fingerprints=dict(see_also='0'*16))))
    corpus = Sources.open(dict(links=dict(corpus='mined', source='see_also'))).corpus()
    assert corpus.manifest['rows'] == dict(links=dict(train=15, validation=15))

def test_files_are_sources_of_their_names(place):
    corpus = open_corpus(['files.jsonl', write(place/'b c.jsonl', ROWS[:3])])
    assert corpus.manifest['rows'] == dict(files=dict(train=32), b_c=dict(train=3))

# the hub

@pytest.fixture
def hub(place, monkeypatch):
    "A set of 36 rows on a hub; each name that it was asked for."
    asked, load = [], datasets.load_dataset
    def answer(name, config=None, split=None, revision=None, streaming=False):
        asked.append((name, config, split, revision, streaming))
        return load('parquet', data_files=sorted(map(str, place.glob('sails/*'))), split='train',
            streaming=True)
    monkeypatch.setattr(datasets, 'load_dataset', answer)
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    return asked

HUB = dict(sails=dict(hub='somebody/sails', config='pair', revision='main', query='title', document='body'))

def test_a_fetch_that_is_killed_goes_on_behind_the_last_file(place, hub, monkeypatch):
    monkeypatch.setattr(module, '_SHARD', 10)
    read = module._next
    def fatal(stream, where):
        if len([*place.glob('cache/hub/.fetching-*/0*')]) == 2: os.kill(os.getpid(), signal.SIGKILL)
        return read(stream, where)
    def work():
        module._next = fatal
        Sources.open(HUB).found()
    assert Run(work).wait()[0] == -signal.SIGKILL
    written = [file.stat().st_mtime_ns for file in sorted(place.glob('cache/hub/.fetching-*/0*'))]
    source, = Sources.open(HUB).found()
    assert hub == [('somebody/sails', 'pair', 'train', 'main', True)]
    assert [file.stat().st_mtime_ns for file in source.files[:2]] == written
    assert [pq.read_metadata(file).num_rows for file in source.files] == [10, 10, 10, 6]
    rows = pd.concat(map(pd.read_parquet, source.files))
    assert rows['title'].tolist() == [row['title'] for row in SAILS[::2] + SAILS[1::2]]
    assert list(rows) == ['title', 'body']                                              # and no other column
    assert Sources.open(HUB).found()[0].files == source.files and len(hub) == 1              # asked no more

def test_a_folder_stands_in_for_the_hub(place, monkeypatch):
    monkeypatch.setenv('GTE_NB_HUB_DATA', str(place))
    assert len(Sources.open(HUB).found()[0].files) == 2

@pytest.mark.parametrize('change, sentence', [
    (dict(query='titel'), 'source sails: somebody/sails has no column titel; it has title, body, notes'),
    (dict(negatives=['wrong']), 'has no column wrong')])
def test_a_column_that_a_hub_does_not_have(hub, change, sentence):
    with pytest.raises(ValueError, match=sentence): Sources.open(dict(sails=HUB['sails'] | change)).found()

def test_a_hub_that_does_not_answer(place, monkeypatch):
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='source sails: somebody/sails cannot be had from the hub'):
        Sources.open(HUB).found()
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ValueError, match='pip install datasets'): Sources.open(HUB).found()

# what is refused

@pytest.mark.parametrize('text, sentence', {
    '[a]\nfiles = "nowhere.jsonl"': 'sources.toml, source a: .*nowhere.jsonl does not exist',
    '[a]\nfiles = "*.csv"': r'source a: no file is called .*\*.csv',
    '[a]\nfiles = []': r'source a: files is \[\]; give a text, or a list of some',
    '[a]\nfile = "files.jsonl"': "source a: unknown key 'file'; did you mean files?",
    '[a]\nfiles = "files.jsonl"\nqurey = "title"': "unknown key 'qurey'; did you mean query?",
    '[a]\nfiles = "files.jsonl"\nxxx = 1': "unknown key 'xxx'; known are files, ",
    '[a]\nfiles = "files.jsonl"\ncap = "many"': "cap is 'many'; give a whole number from 1 up",
    '[a]\nfiles = "files.jsonl"\ncap = 0': 'cap is 0; give a whole number',
    '[a]\nfiles = "files.jsonl"\nquery = 3': 'query is 3; give a text',
    '[a]\nfiles = "files.jsonl"\nquoting = "no"': "quoting is 'no'; give 'csv' or 'none'",
    '[a]\nfiles = "files.jsonl"\nhub = "x/y"': 'source a names files and hub; give it one of files, dataset',
    '[a]\nquery = "title"': 'source a names no rows; give it one of files, dataset, hub, corpus',
    '[a]\nfiles = "files.jsonl"\nsplit = "train"': 'split does not go with files; with it go query, document',
    '[a]\ndataset = "sails"': 'sails is no folder that datasets saved to disk',
    '[a]\ncorpus = "nowhere"\nsource = "b"': 'nowhere holds no corpus',
    '[a]\ncorpus = "own"': 'a corpus holds several sources; say which',
    '[a]\ncorpus = "own"\nsource = "nix"': "own corpus has no source 'nix'; it has docstring_code",
    '[a]\nfiles = "files.jsonl"\n[a]\nfiles = "files.jsonl"': 'line 3: a second source is called a',
    '["a/b"]\nfiles = "files.jsonl"': 'source a/b: its name may hold letters',
    'files = "files.jsonl"': r'above the first source: files belongs to a source; write its \[name\]',
    'validtion = 0\n[a]\nfiles = "files.jsonl"': "unknown key 'validtion'; did you mean validation?",
    'validation = 2\n[a]\nfiles = "files.jsonl"': 'sources.toml: validation is 2; give a share',
    'validation = true\n[a]\nfiles = "files.jsonl"': 'validation is True; give a share',
    '': 'sources.toml names no source',
    '[a\n': 'is not written as TOML is: ',
    '[a]\nfiles = "empty.jsonl"': 'empty.jsonl is empty',
    '[a]\nfiles = "sails/0.parquet"': 'has the columns title, body, notes',
    '[a]\nfiles = "sails/0.parquet"\nquery = "titel"\ndocument = "body"': 'titel'}.items())
def test_refused(place, text, sentence):
    (place/'empty.jsonl').touch()
    (place/'sources.toml').write_text(text)
    with pytest.raises(ValueError, match=sentence): open_corpus('sources.toml')
    assert not list(place.glob('cache/corpus/*/corpus.json'))

@pytest.mark.parametrize('what, sentence', [
    ('nowhere.toml', 'nowhere.toml does not exist'), ({}, 'the dict names no source'),
    (['files.jsonl', 'sails'], 'sails/0.parquet has the columns title, body, notes'),
    (['files.jsonl', 'empty'], 'empty is a folder, but no data set that datasets saved'),
    (['files.jsonl', 'sources.toml'], 'sources.toml is a whole corpus and cannot be joined with 1 other'),
    (['files.jsonl', 'old/files.csv'], 'files.jsonl and old/files.csv would both be the source files; '
                                       'rename one')])
def test_refused_otherwise(place, what, sentence):
    (place/'empty').mkdir()
    with pytest.raises(ValueError, match=sentence): open_corpus(what)

def test_a_corpus_of_files_is_no_mined_one(place):
    folder = open_corpus('files.jsonl').folder
    with pytest.raises(ValueError, match='was not mined but read from files; name those'):
        Sources.open(dict(a=dict(corpus=folder, source='files'))).found()
    with pytest.raises(ValueError, match='have their splits already'): open_corpus(folder, validation=0.1)

# the paper's

def test_the_papers_sources_are_those_of_the_registry():
    known, text = registry(), PAPER.read_text(encoding='utf-8')
    opened = Sources.open(PAPER)
    for name, table in opened.tables.items():
        row = known.loc[name]
        assert row['origin'] == 'paper' and (table['hub'], table.get('config', '')) == (row['hub_id'],
            row['config'])
        assert table['split'] == row['split']
        columns = table.get('query', 'query'), table.get('document', 'document')
        assert columns == (row['query_column'], row['document_column'])
    without = {name for name in known.index[known['origin'] == 'paper'] if f'# [{name}]\n' in text}
    assert len(opened.tables) + len(without) == 33 and not without & set(opened.tables)
    # taken out of the comments, the others are sources as well
    whole = '\n'.join(line.removeprefix('# ') if line.startswith(('# [', '# files =', '# query =',
        '# document ='))
        else line for line in text.splitlines())
    for name, table in tomllib.loads(whole).items(): module._checked(name, table, name)

# the commands

TINY = '--recipe laptop-scratch --vocab_size 200 --hidden_size 16 --batch_size 8 --steps 6 --out run'.split()

def test_one_file_trains_both_stages(place):
    """Gauges of a share of the rows; a source that is not trained on, and one that only stage 1 has
    trained on."""
    (place/'sources.toml').write_text(TWO.replace('= 0', '= 0.25'))
    said = done(pretrain([*TINY, '--sources', 'sources.toml', '--gauge_every', 3]))
    assert 'Retrieval on held-out rows (files ' in said and 'Retrieval on held-out rows (sails ' in said
    first = finished_run(place/'run')['about']
    assert first['sources'] == ['files', 'sails'] and 'negatives' not in first
    more = ('--corpus', 'sources.toml', '--sources', 'files', '--init', 'run', '--out', 'second')
    said = done(finetune([*TINY, *more, '--negatives', 'mined', '--gauge_every', 3]))
    assert 'it may have seen rows' not in said                              # the same corpus
    assert ('ailure signature 2' in said and '9 validation rows of sails: not trained on, a gauge measures'
        in said)
    assert 'the negatives of files (' in said and 'are mined: documents of other rows' in said
    assert finished_run(place/'second')['about']['negatives'] == 'files: mined'
    assert '| files: mined |' in (place/'second/README.md').read_text()
    weights = (place/'second/model.safetensors').read_bytes()
    shutil.rmtree(place/'second')
    def again(): # what was mined is kept
        triples.mine_hard_negatives = None
        command.gte_finetune([*TINY, *more, '--negatives', 'mined'])
    done(Run(again))
    said = done(pretrain([*TINY, '--corpus', 'sources.toml', '--sources', 'sails', '--out', 'third']))
    assert 'ailure signature 1' in said and 'Retrieval on held-out rows (sails ' in said
    assert (place/'second/model.safetensors').read_bytes() == weights

@pytest.mark.parametrize('words, sentence', {
    '--sources sources.toml --corpus files.jsonl': 'a file of sources stands alone, without --corpus',
    '--sources sources.toml,b': 'a file of sources stands alone',
    '--sources nowhere.toml': 'nowhere.toml does not exist',
    '--corpus files.jsonl --sources jokes': "source 'jokes' is not in",
    '--corpus files.jsonl --validation 1': 'validation is 1.0; give a share',
    '--corpus sources.toml --quoting none': "quoting stands beside a source's files",
    '--corpus files.jsonl --negatives hard': "negatives is 'hard'; it must be 'random' or 'mined'"}.items())
def test_a_command_that_cannot_be_run(place, words, sentence):
    (place/'sources.toml').write_text(TWO)
    assert sentence in refused(finetune([*TINY, *words.split()]))

def test_a_source_smaller_than_a_batch_is_said(place):
    write(place/'few.jsonl', ROWS[:5])
    said = done(pretrain([*TINY, '--corpus', 'files.jsonl', 'few.jsonl', '--validation', 0, '--gauge_every',
        0]))
    assert ('smaller than a batch of 8 and used as they are, all rows in each of their batches: few (5 rows)'
        in said)

def test_mined_negatives_follow_the_order_of_the_rows(place):
    "The same rows in another order have the same fingerprint, and each row its own negative."
    write(place/'files2.jsonl', ROWS[::-1])
    def work():
        recipe = replace(RECIPES['laptop-scratch'][1], sources=('files',), vocab_size=200, hidden_size=16,
            negatives='mined')
        corpora = [open_corpus(dict(files=dict(files=file), validation=0))
            for file in ('files.jsonl', 'files2.jsonl')]
        embedder = start_embedder(recipe, corpora[0])
        tables = [source_tables(embedder, corpus, recipe) for corpus in corpora]
        forth, back = (triples.source_negatives(embedder, *those)[0]
            for those in zip(corpora, [recipe]*2, tables))
        assert corpora[0].fingerprint == corpora[1].fingerprint
        assert [[*map(list, row)] for row in forth] == [[*map(list, row)]
            for row in back[::-1]] and any(forth)
    done(Run(work))

@pytest.mark.parametrize('other', ['query: ', ''])
def test_a_model_names_the_prefix_of_all_its_texts(place, other):
    "What stands before the texts in training stands in the model's folder, unless sources differ."
    tables = tomllib.loads(TWO)
    tables['sails'] |= dict(query_prefix='query: ')
    tables['files'] |= dict(query_prefix=other)
    def work():
        recipe = replace(RECIPES['laptop-scratch'][0], vocab_size=200, hidden_size=16, batch_size=8, steps=2)
        run_stage(recipe, place/'run', tables)
    said = done(Run(work))
    config = json.loads((place/'run/config_sentence_transformers.json').read_text())
    assert config['prompts'] == (dict(query='query: ', document='') if other else {})
    assert ("prefixes differ from source to source ('', ''; 'query: ', '')" in said) == (not other)

def test_run_stage_opens_sources(place):
    def work():
        recipe = replace(RECIPES['laptop-scratch'][0], vocab_size=200, hidden_size=16, batch_size=8, steps=2)
        for i, what in enumerate((tomllib.loads(TWO), Sources.open(tomllib.loads(TWO)), 'sources.toml')):
            run_stage(recipe, place/str(i), what, quiet=True)
            assert finished_run(place/str(i))['about']['sources'] == ['files', 'sails']
    (place/'sources.toml').write_text(TWO)
    done(Run(work))
    assert len({(place/str(i)/'model.safetensors').read_bytes() for i in range(3)}) == 1
