"JupyterLab: what a notebook looks like when it is opened, and what is written when it is saved."
import asyncio, json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def configured():
    "What the server's configuration sets."
    sections = dict(ServerApp=SimpleNamespace(), ContentsManager=SimpleNamespace())
    file = ROOT/'.jupyter'/'jupyter_server_config.py'
    exec(compile(file.read_text(encoding='utf-8'), str(file), 'exec'), dict(__name__='config', c=SimpleNamespace(**sections)))
    return sections

@pytest.mark.parametrize('name, filled', [('python3', True), ('julia', False), (None, False)])
def test_opened(configured, tmp_path, monkeypatch, name, filled):
    "A notebook comes with the metadata that JupyterLab would set, and so stays unchanged; saving leaves the file as nbdev cleans it."
    from ipykernel.ipkernel import IPythonKernel
    monkeypatch.chdir(ROOT)                                                     # where nbdev finds settings.ini
    kernelspec = dict(kernelspec=dict(display_name=name, language='python', name=name)) if name else {}
    notebook = dict(cells=[dict(cell_type='markdown', id='0a1b2c3d', metadata={}, source=['# A title'])], metadata=kernelspec, nbformat=4, nbformat_minor=5)
    (file := tmp_path/'book.ipynb').write_text(json.dumps(notebook, indent=1) + '\n')
    before = file.read_bytes()
    contents = configured['ServerApp'].contents_manager_class(root_dir=str(tmp_path), pre_save_hook=configured['ContentsManager'].pre_save_hook)
    opened = asyncio.run(contents.get('book.ipynb'))
    metadata = opened['content']['metadata']
    assert (metadata.get('language_info') == IPythonKernel.language_info) == filled
    if filled: assert metadata['kernelspec'] == dict(name='python3', language='python', display_name='Python 3 (ipykernel)')
    else: assert metadata.get('kernelspec') == kernelspec.get('kernelspec')
    asyncio.run(contents.save(dict(type='notebook', content=opened['content']), 'book.ipynb'))
    assert file.read_bytes() == before

def test_other_files(configured, tmp_path):
    "Folders, texts and a notebook without its content are given out as they are."
    contents = configured['ServerApp'].contents_manager_class(root_dir=str(tmp_path))
    (tmp_path/'text.md').write_text('# A title')
    (tmp_path/'book.ipynb').write_text(json.dumps(dict(cells=[], metadata={}, nbformat=4, nbformat_minor=5)))
    assert asyncio.run(contents.get('text.md'))['content'] == '# A title'
    assert {entry['name'] for entry in asyncio.run(contents.get(''))['content']} == {'text.md', 'book.ipynb'}
    assert asyncio.run(contents.get('book.ipynb', content=False))['content'] is None
