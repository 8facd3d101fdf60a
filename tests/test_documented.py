"Comments beside parameters reach help(): what a module says, and what its docstrings hold afterwards."
import importlib, inspect, pkgutil, pydoc, re, sys

import pytest

import gte_nb
from gte_nb.documented import documented

MODULES = [module.name for module in pkgutil.iter_modules(gte_nb.__path__) if module.name != '_modidx' and not module.ispkg]
UNDESCRIBED = {'corpus.complain', 'corpus.fold', 'corpus.Row', 'corpus.squeeze', 'corpus.normalise', 'corpus.fingerprint', 'embedder.tokenizer_hash', 'folders.Normalize', 'gauges.mrr', 'negatives.code_words'}   # some parameter has no comment

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

@pytest.mark.parametrize('source, doc', [
    ('def f(\n    a: int, # one\n    b: str = "x", # two\n) -> bool: # three\n    "Do."\n', 'Do.\n\nArgs:\n    a (int): one\n    b (str, default "x"): two\n\nReturns:\n    bool: three'),
    ('def f(a: int) -> bool: # three\n    "Do."\n', 'Do.\n\nReturns:\n    bool: three'),
    ('def f(a: int): return a\n\ndef g(\n    b: int, # not of f\n): "No."\n', ''),
    ('def f(\n    a: int,\n    *, # nothing\n    b = None, # a = b, or {c: d}\n    **more: dict[str, int], # the rest\n):\n    "Do."\n', 'Do.\n\nArgs:\n    a (int)\n    b (default None): a = b, or {c: d}\n    **more (dict[str, int]): the rest'),
    ('def f(\n    a: "list[int]" = (1, 2), # with a # sign\n    b: str = "#no", # yes\n):\n    """Do.\n\n    At length.\n        Deeper."""\n', 'Do.\n\nAt length.\n    Deeper.\n\nArgs:\n    a ("list[int]", default (1, 2)): with a # sign\n    b (str, default "#no"): yes'),
    ('import functools\n@functools.cache\ndef f(\n    a: int, # one\n):\n    "Do."\n', 'Do.\n\nArgs:\n    a (int): one'),
    ('from contextlib import contextmanager\n@contextmanager\ndef f(\n    a: int, # one\n): # what\n    "Do."\n    yield\n', 'Do.\n\nArgs:\n    a (int): one\n\nReturns:\n    what'),
    ('def f(\n    a: int, # one\n):\n    """Do.\n\nArgs:\n    a: said already"""\n', 'Do.\n\nArgs:\n    a: said already'),
    ('class f:\n    "A thing."\n    def __init__(self,\n        a: int, # one\n    ): pass\n', 'A thing.\n\nArgs:\n    a (int): one'),
    ('from dataclasses import dataclass\n@dataclass\nclass Base:\n    a: int # one\n\n@dataclass\nclass f(Base):\n    "A thing."\n    b: str = "x" # two\n    c = 3 # no field\n\n    def g(self):\n        d: int = 4 # no field\n', 'A thing.\n\nArgs:\n    a (int): one\n    b (str, default "x"): two'),
    ('from typing import NamedTuple\nclass f(NamedTuple):\n    "A thing."\n    a: int # one\n', 'A thing.\n\nArgs:\n    a (int): one'),
])
def test_section(read, source, doc):
    "Each form in which parameters are written."
    assert (read(source).f.__doc__ or '') == doc

def test_members(read):
    "Methods of every kind, and what stays as it is: private names, and what other modules define."
    module = read('from functools import cached_property\nfrom json import dumps\nclass A:\n    "A."\n' + ''.join(
        f'    {decorator}\n    def {name}({first}) -> int: # result of {name}\n        "{name}."\n' for decorator, name, first in (
            ('', 'plain', 'self'), ('@classmethod', 'made', 'cls'), ('@staticmethod', 'fixed', ''), ('@property', 'size', 'self'), ('@cached_property', 'kept', 'self'), ('', '_private', 'self'))))
    before = __import__('json').dumps.__doc__
    for name in ('plain', 'made', 'fixed', 'size', 'kept'): assert inspect.getdoc(inspect.getattr_static(module.A, name) if name in ('size', 'kept') else getattr(module.A, name)).endswith(f'Returns:\n    int: result of {name}')
    assert module.A._private.__doc__ == '_private.' and module.dumps.__doc__ == before
    once = module.A.plain.__doc__
    documented(vars(module))
    assert module.A.plain.__doc__ == once

def test_no_source():
    "Where there is no source, as in a notebook, nothing happens."
    namespace = dict(__name__='__main__', __spec__=None)
    exec('def f(\n    a: int, # one\n):\n    "Do."\n', namespace)
    documented(namespace)
    assert namespace['f'].__doc__ == 'Do.'

def members(module):
    "(name, thing) of all public functions, classes and methods of a module."
    for name, thing in vars(module).items():
        if name.startswith('_') or getattr(thing, '__module__', None) != module.__name__ or not callable(thing): continue
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
        try: parameters = [parameter for parameter in inspect.signature(thing).parameters if parameter not in ('self', 'cls')]
        except (ValueError, TypeError): continue                                # of C
        if any(not re.search(rf'^    \*{{0,2}}{parameter}( \(.*\))?: \S', thing.__doc__ or '', re.M) for parameter in parameters): wrong.append(f'{name}.{member}')
    assert set(wrong) <= UNDESCRIBED

def test_help():
    "help() shows the shapes of the losses, and the --help of a command is as short as it was."
    from fastcore.script import anno_parser
    from gte_nb import losses, search
    documented(vars(losses)); documented(vars(search))
    shown = pydoc.render_doc(losses.improved_contrastive_loss, renderer=pydoc.plaintext)
    for parameter in inspect.signature(losses.improved_contrastive_loss).parameters: assert re.search(rf'^        {parameter} \(.+\): \S', shown, re.M), parameter
    assert 'queries (torch.Tensor): (n, d) query vectors, not yet normalised' in shown and shown.rstrip().endswith('torch.Tensor: scalar')
    assert 'corpus (str, default None): folder of a mined corpus' in search.gte_search.__doc__
    assert 'Args:' not in anno_parser(search.gte_search.__wrapped__).format_help()
