"Mining: tiny packages with a dist-info, made here, instead of the installed ones."
import base64, hashlib, importlib, os, subprocess, sys, textwrap

import pytest

from gte_nb.mining import mine

LIMIT = 120   # seconds for a script that may wait for ever

def install(site, name, files, version='1.0', record=True):
    "A package in the folder `site`: {path: text} and what pip writes beside it."
    about = f'{name}-{version}.dist-info'
    files = dict(files) | {f'{about}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'}
    lines = []
    for path, text in files.items():
        (site/path).parent.mkdir(parents=True, exist_ok=True)
        (site/path).write_text(text, encoding='utf-8')
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()
        lines.append(f'{path},sha256={digest},{len(text.encode())}')
    if record: (site/about/'RECORD').write_text('\n'.join([*lines, f'{about}/RECORD,,', '']), encoding='utf-8')
    importlib.invalidate_caches()

def code(*functions):
    "A module with a documented function for each (name, what it does)."
    return '\n\n'.join(f'def {name}(value):\n    """{summary}"""\n    return {name!r} + str(value)' for name, summary in functions) + '\n'

@pytest.fixture
def site(tmp_path, monkeypatch):
    "A folder for packages on sys.path, a cache of its own, no public test sets."
    (folder := tmp_path/'site').mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('GTE_NB_EVAL_DATA', raising=False)
    return folder

@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
@pytest.mark.parametrize('guard', [True, False])
def test_script(site, tmp_path, method, guard):
    "A script mines where processes import it first: with a main guard it works, without one it is told so, and never waits."
    install(site, 'boats', {'boats/__init__.py': code(('row_boat', 'Move a boat over the lake with oars.'))})
    body = f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\nfrom gte_nb.mining import mine\n" \
           f"try: print(mine('boats', {str(tmp_path/'out')!r}).manifest['rows'])\nexcept ValueError as error: raise SystemExit(f'error: {{error}}')\n"
    script = tmp_path/'script.py'
    script.write_text("if __name__ == '__main__':\n" + textwrap.indent(body, '    ') if guard else body)
    said = subprocess.run([sys.executable, script], env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)), capture_output=True, text=True, timeout=LIMIT)
    if guard: assert said.returncode == 0 and "'docstring_code': {'train': 1}" in said.stdout, said.stderr
    else:
        assert said.returncode == 1 and "if __name__ == '__main__':" in said.stderr and 'Traceback' not in said.stderr, said.stderr
        assert not (tmp_path/'out').exists()
