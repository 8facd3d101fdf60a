"The worked pages of CONTRIBUTING.md do what they say, in a copy of the checkout."
import json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest

from gte_nb.data.corpus import Corpus
from gte_nb.utils import cache_folder

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r'^```(\w+)(?: (\S+))?\n(.*?)^```$', re.M | re.S)
TEXT = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
PAGES = {title: BLOCK.findall(page) for title, page in re.findall(r'^## (Add .+?)\n(.*?)(?=^## )', TEXT,
    re.M | re.S)}

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """The checkout without what is computed. Of the notebooks only those that the pages change: to export all
    of them anew takes most of the time."""
    folder = tmp_path_factory.mktemp('checkout')
    shutil.copytree(ROOT/'gte_nb', folder/'gte_nb', ignore=shutil.ignore_patterns('__pycache__'))
    for file in {file for page in PAGES.values() for _, file, _ in page if file.endswith('.ipynb')}:
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/file, folder/file)
    for name in ('settings.ini', 'pyproject.toml'): shutil.copy(ROOT/name, folder)
    (folder/'data').mkdir()
    for table in (ROOT/'data').glob('*.csv'): shutil.copy(table, folder/'data')
    return folder

def add_cell(notebook, code):
    "A new exported cell behind the others."
    contents = json.loads(notebook.read_text(encoding='utf-8'))
    sources = [''.join(cell['source']) for cell in contents['cells']]
    last = max(i for i, source in enumerate(sources) if source.startswith('#| export')
               and source.strip() != '#| export\ndocumented(globals())')
    contents['cells'].insert(last + 1, dict(cell_type='code', id='ca11ab1e', metadata={}, outputs=[],
        execution_count=None, source=f'#| export\n{code}'.splitlines(keepends=True)))
    notebook.write_text(json.dumps(contents, indent=1, ensure_ascii=False), encoding='utf-8')

def test_pages():
    assert len(PAGES) == 4 and all(any(kind == 'sh' for kind, *_ in page) for page in PAGES.values())

@pytest.mark.parametrize('title', PAGES)
def test_page(copy, title):
    # what a changed reader mines must not be found later; the corpus of the others is the project's own
    cache = copy/'cache' if title == 'Add a source' else cache_folder()
    environment = os.environ | dict(PYTHONPATH=str(copy), GTE_NB_CACHE=str(cache),
                                    PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for kind, file, code in PAGES[title]:
        if kind == 'sh':
            ran = subprocess.run(['bash', '-ec', code], cwd=copy, env=environment, capture_output=True,
                text=True)
            assert ran.returncode == 0, f'{code}\n{ran.stdout}\n{ran.stderr}'
        elif file.endswith('.ipynb'): add_cell(copy/file, code)
        else: (copy/file).write_text(code, encoding='utf-8')
    if title == 'Add a source':
        assert len(Corpus(copy/'corpus').pairs('setting_description')) > 50
    if title == 'Add an evaluation task': assert '"HTTP status"' in code and (copy/'runs/status').exists()
    if title == 'Add an experiment': assert len((copy/'runs/rows/widths.csv').read_text().splitlines()) == 7
