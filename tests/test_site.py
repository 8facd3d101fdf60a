"""The web site: its book builds without a warning, and a browser reads and searches it from disk, without any
server. Skipped where there is no Chromium, or where Sphinx cannot be installed."""
import re, shutil, subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
# what a page loads, and not what it links to
LOADED = re.compile(r'<(?:script|img|iframe|source|link(?![^>]*\brel="canonical"))\b[^>]*?\b(?:src|href)="'
                    r'(?:https?:)?//[^"]+"')

def make(*arguments):
    "(status, what it printed)"
    done = subprocess.run(['make', '-s', *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site."
    if not CHROMIUM: pytest.skip('no Chromium is installed, which would read the web site')
    status, printed = make('.venv-site/.installed')
    if status: pytest.skip(f'Sphinx cannot be installed: {printed.strip().splitlines()[-1]}')
    folder = tmp_path_factory.mktemp('site')
    status, printed = make('site', 'ONLY=book', f'SITE={folder}', f'SITE_BUILD={folder}/build')
    assert status == 0, printed
    return folder

@pytest.fixture(scope='module')
def page(site, tmp_path_factory):
    "What a browser makes of a page."
    profile = tmp_path_factory.mktemp('profile')
    def dumped(address):
        command = [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={profile}',
                   '--virtual-time-budget=20000', '--dump-dom', f'file://{site}/{address}']
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return dumped

@pytest.mark.parametrize('address, there', [
    ('index.html', ['_images/method.svg', 'href="book/00_one_page.html"', 'Findings']),
    ('book/03_losses.html', ['<mjx-container', 'src="../_images/', 'href="04_batches.html"']),
    ('search.html?q=temperature', ['<a href="book/03_losses.html" data-score=']),
])
def test_page(page, address, there):
    "Formulas are drawn, what is searched is found, and nothing comes from another server."
    html = page(address)
    assert not [part for part in there if part not in html]
    assert 'mjx-merror' not in html and not LOADED.findall(html)

def test_no_other_server(site):
    "No page loads anything from one, and no style sheet does."
    pages, sheets = ([*site.rglob(f'*.{kind}')] for kind in ('html', 'css'))
    assert len(pages) > 16
    assert not {(file.name, match) for file in pages for match in LOADED.findall(file.read_text('utf-8'))}
    assert not [file for file in sheets if re.search(r'(?:url\(|@import)\s*["\']?(?:https?:)?//',
                                                     file.read_text('utf-8'))]

def test_cells(site):
    "Directives of nbdev are left out; cells that JupyterLab folds can be opened."
    chapters = ''.join(file.read_text('utf-8') for file in site.glob('book/*.html'))
    assert '#| ' not in chapters and 'documented(' not in chapters
    assert chapters.count('<details class="admonition hide') > 10
