"""How `make site` builds the site with Sphinx, from a copy of nbs/ with the pages of the reference added.

Nothing is executed: notebooks are shown as they are saved. No page needs another server."""
import ast, importlib.util, json, re, sys
from pathlib import Path
from types import SimpleNamespace

import myst_nb.sphinx_ext

ROOT = Path(__file__).resolve().parents[1]

project = author = 'gte_nb'
html_title = 'gte_nb: the GTE paper as a book that runs'
# myst-nb keeps pictures of outputs beside the site, for which it has no setting
myst_nb.sphinx_ext.OUTPUT_FOLDER = str(ROOT/'build/site/outputs')
extensions = ['myst_nb', 'sphinx.ext.mathjax', 'autoapi.extension']
exclude_patterns = ['**/.ipynb_checkpoints', '**/_*', '**/.*']
default_role = 'code'                      # `name` in docstrings
html_theme = 'sphinx_book_theme'
# MathJax is one file with its letters, which `make site` has fetched and checked
html_static_path = ['_static', str(Path(sys.prefix)/'static')]
html_css_files = ['site.css']
html_copy_source = html_show_sourcelink = False
html_theme_options = dict(show_toc_level=2, max_navbar_depth=1, home_page_in_toc=True, navbar_persistent=[],
                          use_download_button=False, use_fullscreen_button=False)
pygments_style = 'a11y-high-contrast-light'

nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'         # a table that a cell renders can hold links
nb_code_prompt_show, nb_code_prompt_hide = 'show the {type}', 'hide the {type}'
nb_number_source_lines = False
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_dmath_double_inline = True
myst_heading_anchors = 4
mathjax_path = 'mathjax.js'
mathjax_options = {}

autoapi_dirs = [str(ROOT/'gte_nb')]
autoapi_root = 'api'
autoapi_add_toctree_entry = False
autoapi_options = ['members', 'undoc-members', 'show-inheritance', 'show-module-summary']
autoapi_ignore = ['*/_modidx.py', '*/tables/*']

suppress_warnings = [
    'ref.python',                          # `type` is an attribute of several classes
    'config.cache',                        # a function among these settings
    'myst.header',                         # a notebook may jump from ## to ####
    'mystnb.unknown_mime_type',            # of a widget, beside the picture that is shown instead
    'autoapi.python_import_resolution',    # of a private name
    'misc.highlighting_failure',           # shell or output, shown as code of Python
]

if tags.has('part'):                       # make site ONLY=book  # noqa: F821
    extensions.remove('autoapi.extension')
    suppress_warnings.append('myst.xref_missing')

CONTENTS = {'The book': ['book/[0-9]*', 'book/glossary', 'commands'], 'Machinery': ['machinery/*'],
            'Experiments': ['experiments/*']}
HIDDEN = re.compile(r'#\| *hide\b|(#\|.*\n)*documented\(globals\(\)\)')
ANCHOR = re.compile(r'(?<=\]\()([^)#\s]*)#([^)\s]+)(?=\))')      # [text](page.ipynb#A-heading)
DIRECTIVE = re.compile(r'^#\|.*\n?', re.M)

def toctree(folder):
    "The list of all pages, appended to the first; headings, which would be copied into every page, left out."
    def entry(path):
        page, number = path.relative_to(folder).with_suffix(''), path.name[:2]
        title = re.search(r'"# (.+?)(\\n)?"', path.read_text(encoding='utf-8'))[1]
        return f'{number} {title} <{page}>' if number.isdigit() else str(page)
    def pages(patterns):
        return [entry(path) for pattern in patterns for path in sorted(folder.glob(pattern + '.ipynb'))]
    parts = {caption: pages(patterns) for caption, patterns in CONTENTS.items()}
    parts['Reference'] = ['api/gte_nb/index']*('autoapi.extension' in extensions) + ['CONTRIBUTING']
    return '\n\n'.join('\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', ':maxdepth: 1', '',
                                   *entries, '```']) for caption, entries in parts.items() if entries)

def anchor(link):
    "JupyterLab names a heading by its words; MyST, as GitHub does, by these in lower case."
    return link[1] + '#' + re.sub(r'[^\w-]', '', link[2].lower())

def show_notebook(app, docname, source):
    "A notebook without what belongs to nbdev; cells that JupyterLab folds can be opened."
    if docname == 'CONTRIBUTING':              # lies beside nbs/, and names files that are no pages
        source[0] = re.sub(r'\[([^]]+)\]\((?!http|nbs/)[^)]+\)', r'`\1`', source[0]).replace('](nbs/', '](')
    if Path(app.env.doc2path(docname)).suffix != '.ipynb': return
    notebook = json.loads(source[0])
    cells = []
    for cell in notebook['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            if HIDDEN.match(text): continue
            text = DIRECTIVE.sub('', text)
            if not text.strip(): continue
            folded = cell['metadata'].get('jupyter', {}).get('source_hidden')
            cell['metadata']['tags'] = ['hide-input'] if folded else []
        elif cell['cell_type'] == 'markdown':
            text = ANCHOR.sub(anchor, text).replace('](../CONTRIBUTING.md)', '](CONTRIBUTING.md)')
        cells.append(dict(cell, source=text))
    if docname == 'index':
        cells.append(dict(cell_type='markdown', id='contents', metadata={}, source=toctree(Path(app.srcdir))))
    source[0] = json.dumps(dict(notebook, cells=cells))

def comments_beside(path):
    "The package's own reader of comments beside parameters, without the package (which imports torch)."
    spec = importlib.util.spec_from_file_location('documented', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

documented = comments_beside(ROOT/'gte_nb/documented.py')

def annotations(function):
    "What the commands say of their options, `Param(help, type)`; the signature keeps the type alone."
    params = {}
    for number, (prefix, name, annotation, default) in enumerate(function.obj['args']):
        if not (annotation or '').startswith('Param('): continue
        about, kind = [*ast.parse(annotation).body[0].value.args, None][:2]
        kind = ast.unparse(kind) if kind else 'str'
        text = about.value if isinstance(about, ast.Constant) else ast.unparse(about)[2:-1]
        params[name] = SimpleNamespace(help=text, type=SimpleNamespace(__name__=kind))
        function.args = function.args.replace(annotation, kind, 1)
    return params

def marked(text):
    "A docstring in the markup that Sphinx expects: formulas, code on one line, nothing else special."
    def markup(match):
        code, formula, special = match.groups()
        if code: return ' '.join(code.split())
        return f':math:`{formula}`' if formula else '\\' + special
    return re.sub(r'(`[^`]+`)|\$([^$\n]+)\$|([\\*|_])', markup, text)

def fields(parameters, returned):
    "Sphinx's fields for what `documented` writes: `name (type): comment`, `type: comment` of the result."
    for line in parameters.splitlines()[1:]:
        name, comment = re.match(r' *\**(\w+)(?: \(.*?\))?(?:: (.*))?$', line).groups()
        yield f':param {name}: {marked(comment or "")}'
    if returned: yield f':returns: {marked(returned.splitlines()[1].strip())}'

def describe(app, what, name, thing, skip, options):
    "Docstring and comments as `help()` shows them, in the markup that Sphinx expects of docstrings."
    if '._' in name or getattr(thing, 'described', False): return
    thing.described, sections, words = True, ('', ''), name.split('.')
    files = [ROOT.joinpath(*words[:count]).with_suffix('.py') for count in range(2, len(words))]
    file = next(filter(Path.is_file, files), None)
    here = file and not (thing.inherited or thing.imported)
    if here and what in ('function', 'method') and 'from_line_no' in thing.obj:
        code = SimpleNamespace(co_firstlineno=thing.obj['from_line_no'])
        function = SimpleNamespace(__code__=code, __annotations__=annotations(thing))
        sections = documented._of_function(function, file.read_text(encoding='utf-8').split('\n'))
    thing.docstring = '\n\n'.join([marked(thing.docstring.strip()), '\n'.join(fields(*sections))])

def setup(app):
    app.connect('source-read', show_notebook)
    if 'autoapi.extension' in extensions: app.connect('autoapi-skip-member', describe)
