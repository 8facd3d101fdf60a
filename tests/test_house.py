"The house: what imports what, what is at the top, and functions that fit on a screen."
import ast, importlib, os, subprocess, sys
from pathlib import Path

import pytest

import gte_nb

PACKAGE = Path(gte_nb.__file__).parent
# Each room may import those before it.
ORDER = ('documented', 'utils', 'data', 'model', 'false_negatives', 'loss_arguments', 'tiles', 'losses',
    'training', 'sharing', 'evaluation',
         'search_index', 'answers', 'experiments', 'search') # what a study measures stands before it
SHORT_PATHS = dict(encoder=['model.encoder'], embedder=['model.embedder', 'data.tokens'],
                   sampler=['data.sampler', 'data.permutation'])
FILES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob('*.py'))
         if path.name not in ('__init__.py', '_modidx.py')
         and path.relative_to(PACKAGE).stem not in SHORT_PATHS]

def imported(tree):
    "Modules of ours that a file imports when it runs: (level, module) of each `from … import`."
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == 'TYPE_CHECKING': return
    if isinstance(tree, ast.ImportFrom): yield tree.level, tree.module or ''
    for node in ast.iter_child_nodes(tree): yield from imported(node)

def room(name, level, module):
    "The room that an import in the file `name` leads to; None: not ours."
    if not level: return module.split('.')[1] if module.startswith('gte_nb.') else None
    folders = name.split('/')[:-1]
    return [*folders[:len(folders) + 1 - level], *module.split('.')][0]

@pytest.mark.parametrize('name', FILES)
def test_imports_go_one_way(name):
    here = name.removesuffix('.py').split('/')[0]
    tree = ast.parse((PACKAGE/name).read_text(encoding='utf-8'))
    rooms = {room(name, *found) for found in imported(tree)} - {None}
    assert rooms <= set(ORDER[:ORDER.index(here) + 1])

@pytest.mark.parametrize('name', FILES)
def test_functions_fit_on_a_screen(name):
    "At most 60 lines and 12 parameters."
    large = []
    for node in ast.walk(ast.parse((PACKAGE/name).read_text(encoding='utf-8'))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        parameters = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
        lines = node.end_lineno - node.lineno + 1
        if lines > 60 or parameters > 12: large.append(f'{node.name}: {lines} lines, {parameters} parameters')
    assert not large

@pytest.mark.parametrize('name', FILES)
def test_lines_fit(name):
    """At most 110 characters. nbdev writes the first line and __all__ as they come, and text that is
    rendered as Markdown is not wrapped."""
    source = (PACKAGE/name).read_text(encoding='utf-8')
    free = {1} | {number for node in ast.walk(ast.parse(source)) if hasattr(node, 'lineno')
            for number in range(node.lineno, node.end_lineno + 1)
            if isinstance(node, ast.JoinedStr) and node.end_lineno > node.lineno
            or isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'}
    lines = enumerate(source.splitlines(), 1)
    assert not [number for number, line in lines if len(line) > 110 and number not in free]

def top_names():
    "(module, names) of what type checkers see at the top."
    tree = ast.parse((PACKAGE/'__init__.py').read_text(encoding='utf-8'))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {node.module: tuple(alias.name for alias in node.names) for node in block.body}

def test_the_top_is_what_type_checkers_see(): assert gte_nb._HOMES == top_names()

@pytest.mark.parametrize('name', gte_nb.__all__)
def test_the_top_has(name):
    assert getattr(gte_nb, name) is getattr(importlib.import_module(f'gte_nb.{gte_nb._HOME[name]}'), name)

def test_the_top_lacks():
    with pytest.raises(ImportError): exec('from gte_nb import Embeder')
    with pytest.raises(AttributeError, match="no attribute 'nothing'"): gte_nb.nothing  # noqa: B018

@pytest.mark.parametrize('path', SHORT_PATHS)
def test_short_paths(path):
    "The import paths of before give the same things."
    short = importlib.import_module(f'gte_nb.{path}')
    for module in SHORT_PATHS[path]:
        whole = importlib.import_module(f'gte_nb.{module}')
        assert whole.__all__ and all(getattr(short, name) is getattr(whole, name) for name in whole.__all__)

@pytest.mark.parametrize('code', ['import gte_nb', 'from gte_nb import mixing_probs, MixtureSampler',
                                  'import gte_nb; dir(gte_nb)',
                                  'from gte_nb import registry, from_files, Sources'])
def test_without_torch(code):
    "What needs no torch imports none."
    told = subprocess.run([sys.executable, '-c', f'{code}\nimport sys; print("torch" in sys.modules)'],
                          capture_output=True, text=True, env=os.environ
                          | dict(PYTHONPATH=str(PACKAGE.parent)))
    assert told.stdout == 'False\n', told.stderr
