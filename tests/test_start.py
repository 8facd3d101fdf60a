"""How soon a command answers: seconds of the processor, and what it imports on the way.

The limits are for a machine that others use too: there the same import takes up to twice as long."""
import json, os, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
from statistics import median

import pytest

import gte_nb
from forked import OFTEN, TINY, Place
from gte_nb.experiments.studies.budget import RESUMED
from gte_nb.training.processes import TIMEOUT

ROOT = Path(gte_nb.__file__).parents[1]
settings = ConfigParser(delimiters=['='])
settings.read(ROOT/'settings.ini', encoding='utf-8')
COMMANDS = dict(line.split('=') for line in settings['DEFAULT']['console_scripts'].split())
HEAVY = {'torch', 'pandas', 'pyarrow', 'accelerate', 'matplotlib', 'scipy', 'sklearn', 'transformers',
         'sentence_transformers', 'datasets', 'huggingface_hub'}
REPORT = 'import json, sys, time; print(json.dumps([time.process_time(), *sys.modules]), file=sys.stderr)'

def started(script, code, *arguments, **environment):
    "What a script prints, the seconds of the processor that it takes, and the modules that it imports."
    script.write_text(f'{code}\n{REPORT}', encoding='utf-8')
    process = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True,
        env=os.environ | dict(PYTHONPATH=str(ROOT)) | environment)
    assert process.returncode == 0, process.stderr
    seconds, *modules = json.loads(process.stderr.splitlines()[-1])
    return process.stdout, seconds, set(modules)

def soon(limit, *call):
    "What a script prints that takes at most `limit` seconds, in the median of three, and nothing heavy."
    printed, seconds, modules = started(*call)
    assert not HEAVY & modules
    if seconds > limit: seconds = median([seconds, *(started(*call)[1] for _ in range(2))])
    assert seconds < limit
    return printed

@pytest.mark.parametrize('name', COMMANDS)
def test_help(name, tmp_path):
    module, _, function = COMMANDS[name].partition(':')
    help_of = f'try: {function}()\nexcept SystemExit as end: assert not end.code'
    printed = soon(0.7, tmp_path/name, f'from {module} import {function}\n{help_of}', '--help')
    assert printed.startswith(f'usage: {name}')
    # it speaks of words, and not of the function behind them
    assert not re.search(r'Args:|Returns:|argv|list\[|str\||\|None', printed)
    if 'each other' in printed: assert f'in a step; default: {TIMEOUT:.0f}' in ' '.join(printed.split())

def test_import(tmp_path): soon(0.2, tmp_path/'script.py', 'import gte_nb')

@pytest.mark.parametrize('name,given,found', [('gte_search', {}, '4'), ('script.py', {}, 'None'),
    ('gte_search', dict(OPENBLAS_THREAD_TIMEOUT='9'), '9')])
def test_waiting_threads(name, given, found, tmp_path, monkeypatch):
    "NumPy's threads sleep in our commands; elsewhere, and where somebody has decided, they are left alone."
    monkeypatch.delenv('OPENBLAS_THREAD_TIMEOUT', raising=False)
    code = "import gte_nb, os; print(os.environ.get('OPENBLAS_THREAD_TIMEOUT'))"
    assert started(tmp_path/name, code, **given)[0].strip() == found

def test_resumed_run(tmp_path):
    run = Place(tmp_path).killed()
    words = [*TINY, *OFTEN, '--corpus', run.rows, '--out', run.out, '--quiet']
    printed, _, modules = started(tmp_path/'script.py', RESUMED, *words, GTE_NB_CACHE=str(run.cache))
    steps, seconds = printed.split()
    assert int(steps) == 7 and float(seconds) < 3                       # six were done
    assert not {'torch._dynamo', 'sympy', 'matplotlib', 'scipy', 'sklearn', 'transformers'} & modules
