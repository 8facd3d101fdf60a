"JupyterLab: what a notebook looks like when it is opened, and what is written when it is saved."
import asyncio, base64, io, json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT/'.jupyter'/'jupyter_server_config.py'

@pytest.fixture(scope='module')
def configured():
    "What the server's configuration sets."
    c = SimpleNamespace(**{name: SimpleNamespace() for name in ('ServerApp', 'ContentsManager', 'LabApp')})
    names = dict(__name__='config', __file__=str(CONFIG), c=c)
    exec(compile(CONFIG.read_text(encoding='utf-8'), str(CONFIG), 'exec'), names)
    return c

def notebook(file, metadata):
    "A notebook as nbdev cleans it."
    cell = dict(cell_type='markdown', id='0a1b2c3d', metadata={}, source=['# A title'])
    content = dict(cells=[cell], metadata=metadata, nbformat=4, nbformat_minor=5)
    file.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
    return file

@pytest.mark.parametrize('name, filled', [('python3', True), ('julia', False), (None, False)])
def test_opened(configured, tmp_path, monkeypatch, name, filled):
    "A notebook comes with the metadata that JupyterLab would set; saving it leaves the file as it was."
    from ipykernel.ipkernel import IPythonKernel
    monkeypatch.chdir(ROOT)                                                 # where nbdev finds settings.ini
    kernelspec = dict(kernelspec=dict(display_name=name, language='python', name=name)) if name else {}
    file = notebook(tmp_path/'book.ipynb', kernelspec)
    before = file.read_bytes()
    how = dict(root_dir=str(tmp_path), pre_save_hook=configured.ContentsManager.pre_save_hook)
    contents = configured.ServerApp.contents_manager_class(**how)
    content = asyncio.run(contents.get('book.ipynb'))['content']
    said, language = content['metadata'].get('kernelspec'), content['metadata'].get('language_info')
    if filled: assert said == dict(name='python3', language='python', display_name='Python 3 (ipykernel)')
    else: assert said == kernelspec.get('kernelspec')
    assert (language == IPythonKernel.language_info) == filled
    asyncio.run(contents.save(dict(type='notebook', content=content), 'book.ipynb'))
    assert file.read_bytes() == before

def test_other_files(configured, tmp_path):
    "Folders, texts and a notebook without its content are given out as they are."
    contents = configured.ServerApp.contents_manager_class(root_dir=str(tmp_path))
    (tmp_path/'text.md').write_text('# A title')
    notebook(tmp_path/'book.ipynb', {})
    assert asyncio.run(contents.get('text.md'))['content'] == '# A title'
    assert {entry['name'] for entry in asyncio.run(contents.get(''))['content']} == {'text.md', 'book.ipynb'}
    assert asyncio.run(contents.get('book.ipynb', content=False))['content'] is None

def no_lesson(source):
    "Directives, imports, what is hidden, solutions of exercises: a cell that is shown folded."
    return source.startswith(('#| default_exp', '#| hide', '# A solution', '#| export\nimport ',
                              '#| export\nfrom ', '#| export\ndocumented(globals)'))

@pytest.mark.parametrize('path', sorted(ROOT.glob('nbs/*/*.ipynb')), ids=lambda path: path.stem)
def test_folded(path):
    "The first idea of a notebook is not pushed off the screen."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    open_cells = [number for number, cell in enumerate(cells) if cell['cell_type'] == 'code'
                  and no_lesson(''.join(cell['source']))
                  and not cell['metadata'].get('jupyter', {}).get('source_hidden')]
    assert not open_cells, f'fold these cells of {path.name} (View > Collapse Selected Code): {open_cells}'

def white_boxes():
    "Charts with something behind their curves: a colour of their own, or one that IPython puts there."
    from PIL import Image
    for path in sorted(ROOT.glob('nbs/**/*.ipynb')):
        for number, cell in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
            for output in cell.get('outputs', ()):
                if not (png := output.get('data', {}).get('image/png')): continue
                corner = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGBA').getpixel((0, 0))
                if corner[3] or 'needs_background' in output['metadata']: yield f'{path.stem}, cell {number}'

def test_transparent():
    "A chart can be read on a dark page: nothing stands behind it (nbs/matplotlibrc; execute it again)."
    assert not list(white_boxes())
