"Comments beside parameters reach help(): what a module says, and what its docstrings hold afterwards."
import importlib, inspect, pkgutil, pydoc, re, subprocess, sys

import pytest

import gte_nb
from gte_nb.documented import documented

EVERY = [module.name for module in pkgutil.walk_packages(gte_nb.__path__, 'gte_nb.') if not module.ispkg]
# other paths to what is elsewhere
SHORT = {'gte_nb._modidx', 'gte_nb.encoder', 'gte_nb.embedder', 'gte_nb.sampler'}
MODULES = [name.removeprefix('gte_nb.') for name in EVERY if name not in SHORT and '.studies.' not in name]
UNDESCRIBED = { # what lacks a comment
    'utils.complain', 'data.text.fold', 'data.text.Row', 'data.text.squeeze', 'data.text.normalise',
    'data.corpus.fingerprint', 'data.tokens.tokenizer_hash', 'model.folders.Normalize',
    'training.gauges.mrr', 'model.bm25.code_words'}

@pytest.fixture
def read(tmp_path, monkeypatch):
    "A module of some source, imported and documented."
    monkeypatch.syspath_prepend(str(tmp_path))
    def read(source):
        (tmp_path/'pages.py').write_text(source, encoding='utf-8')
        sys.modules.pop('pages', None)
        importlib.invalidate_caches()
        documented(vars(module := importlib.import_module('pages')))
        return module
    return read

TWO = """
    a: int, # one
    b: str = "x", # two
"""
DATACLASSES = """from dataclasses import dataclass
@dataclass
class Base:
    a: int # one

@dataclass
class f(Base):
    "Do."
    b: str = "x" # two
    c = 3 # no field

    def g(self):
        d: int = 4 # no field
"""
MORE = """
    a: int,
    *, # nothing
    b = None, # a = b, or {c: d}
    **more: dict[str, int], # others
"""
ARGS, B = 'Do.\n\nArgs:\n    a (int): one', '\n    b (str, default "x"): two'
A = '\n    a: int, # one\n'

@pytest.mark.parametrize('source, doc', [
    (f'def f({TWO}) -> bool: # three\n    "Do."\n', ARGS + B + '\n\nReturns:\n    bool: three'),
    ('f = lambda a: a # one\n', ''),
    (f'class A:\n    def __init__({A}): pass\n\nclass f:\n    "Do."\n    __init__ = A.__init__\n', ARGS),
    ('def f(a: int) -> bool: # three\n    "Do."\n', 'Do.\n\nReturns:\n    bool: three'),
    ('def f(a: int,\n      b: str = "x") -> bool: # three\n    "Do."\n', 'Do.\n\nReturns:\n    bool: three'),
    (f'def f(a: int): return a\n\ndef g({TWO}): "No."\n', ''),
    (f'def f({MORE}): "Do."\n', 'Do.\n\nArgs:\n    a (int)\n    b (default None): a = b, or {c: d}\n'
     '    **more (dict[str, int]): others'),
    ('def f(\n    a: \'list[int]\' = (1, 2), # with a # sign\n    b: str = "#no", # yes\n): "Do."\n',
     'Do.\n\nArgs:\n    a (list[int], default (1, 2)): with a # sign\n    b (str, default "#no"): yes'),
    (f'def f({A}):\n    """Do.\n\n    At length.\n        Deeper."""\n',
     'Do.\n\nAt length.\n    Deeper.\n\nArgs:\n    a (int): one'),
    (f'import functools\n@functools.cache\ndef f({A}): "Do."\n', ARGS),
    (f'from contextlib import contextmanager\n@contextmanager\ndef f({A}): # what\n    "Do."\n    yield\n',
     ARGS + '\n\nReturns:\n    what'),
    (f'def f({A}):\n    """Do.\n\nArgs:\n    a: said already"""\n', 'Do.\n\nArgs:\n    a: said already'),
    ('class f:\n    "Do."\n    def __init__(self,\n        a: int, # one\n    ): pass\n', ARGS),
    (DATACLASSES, ARGS + B),
    ('def f(\n    # one,\n    # at length\n    a: int,\n    # two\n    b: str = "x",\n) -> bool: # three,\n'
     '    # at length\n    "Do."\n', 'Do.\n\nArgs:\n    a (int): one, at length' + B
     + '\n\nReturns:\n    bool: three, at length'),
    ('from dataclasses import dataclass\n@dataclass\nclass f:\n    "Do."\n    # one\n    a: int\n', ARGS),
    ('from typing import NamedTuple\nclass f(NamedTuple):\n    "Do."\n    a: int # one\n', ARGS),
])
def test_section(read, source, doc):
    "Each form in which parameters are written."
    assert (read(source).f.__doc__ or '') == doc

MEMBERS = """import json
from functools import cached_property
from json import dumps
class A:
    "A."
    def plain(self) -> int: # result
        "Do."
    @classmethod
    def made(cls) -> int: # result
        "Do."
    @staticmethod
    def fixed() -> int: # result
        "Do."
    @property
    def size(self) -> int: # result
        "Do."
    @cached_property
    def kept(self) -> int: # result
        "Do."
    def _private(self) -> int: # result
        "Do."
"""

def test_members(read):
    "Methods of every kind are described; private names, and what other modules define, stay as they are."
    import json
    before, module = json.dumps.__doc__, read(MEMBERS)
    members = [getattr(module.A, name) for name in ('plain', 'made', 'fixed', 'size', 'kept')]
    def docs(): return [inspect.getdoc(member) for member in members]
    assert docs() == ['Do.\n\nReturns:\n    int: result'] * 5
    assert module.A._private.__doc__ == 'Do.' and module.dumps.__doc__ == before
    documented(vars(module))
    assert docs() == ['Do.\n\nReturns:\n    int: result'] * 5

def test_no_source():
    "Where there is no source, as in a notebook, nothing happens."
    namespace = dict(__name__='__main__', __spec__=None)
    exec('def f(\n    a: int, # one\n):\n    "Do."\n', namespace)
    documented(namespace)
    assert namespace['f'].__doc__ == 'Do.'

def test_as_a_script():
    "`python -m` calls a module __main__, and finds its source all the same."
    command = [sys.executable, '-m', 'gte_nb.experiments.runner', '--help']
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0 and 'usage' in process.stdout, process.stderr

def members(module):
    "(name, thing) of all public functions, classes and methods of a module."
    for name, thing in vars(module).items():
        if name.startswith('_') or not callable(thing): continue
        if getattr(thing, '__module__', '') != module.__name__: continue
        yield name, thing
        if isinstance(thing, type):
            for part, member in vars(thing).items():
                function = getattr(member, '__func__', member)
                if not part.startswith('_') and inspect.isfunction(function): yield f'{name}.{part}', function

@pytest.mark.parametrize('name', MODULES)
def test_described(name):
    "Every public function, class and method says what each of its parameters is."
    documented(vars(module := importlib.import_module(f'gte_nb.{name}')))
    wrong = []
    for member, thing in members(module):
        try: parameters = inspect.signature(thing).parameters.keys() - {'self', 'cls'}
        except (ValueError, TypeError): continue                            # of C
        described = set(re.findall(r'^    \*{0,2}(\w+)(?: \(.*\))?: \S', thing.__doc__ or '', re.M))
        if parameters - described: wrong.append(f'{name}.{member}')
    assert set(wrong) <= UNDESCRIBED

def test_help():
    "help() shows the shapes of the losses, and the --help of a command is as short as it was."
    from fastcore.script import anno_parser
    from gte_nb import losses, search
    documented(vars(losses)); documented(vars(search))
    shown = pydoc.render_doc(losses.improved_contrastive_loss, renderer=pydoc.plaintext)
    for parameter in inspect.signature(losses.improved_contrastive_loss).parameters:
        assert re.search(rf'^        {parameter} \(.+\): \S', shown, re.M), parameter
    assert 'queries (torch.Tensor): (n, d) query vectors, not yet normalised' in shown
    assert shown.rstrip().endswith('torch.Tensor: scalar')
    assert 'corpus (str, default None): folder of a mined corpus' in search.gte_search.__doc__
    assert 'Args:' not in anno_parser(search.gte_search.__wrapped__).format_help()
