"Every link in README.md, and in the notebooks' prose and outputs, leads somewhere; the web is left out."
import json, re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [path for path in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in path.parts]
DOCUMENTS = ['README.md', 'data/README.md', *(path.relative_to(ROOT).as_posix() for path in NOTEBOOKS)]
CODE = re.compile(r'^(```+|~~~+).*?^\1|^(?: {4}|\t).*?$|(`+)(?!`).+?(?<!`)\2(?!`)', re.M | re.S)
LINK = re.compile(r'\]\(\s*<?([^)<>\s]+)>?(?:\s+"[^"]*")?\s*\)'       # [text](target "title")
                  r'|^\[[^\]]+\]:\s*(\S+)'                              # [name]: target
                  r'|<(?:a|img)\b[^>]*?\b(?:href|src)="([^"]+)"', re.M)

def texts(path):
    "The Markdown in a document."
    if path.suffix != '.ipynb': return [path.read_text(encoding='utf-8')]
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    prose = [cell['source'] for cell in cells if cell['cell_type'] == 'markdown']
    data = [output.get('data', {}) for cell in cells for output in cell.get('outputs', [])]
    outputs = [part['text/markdown'] for part in data if 'text/markdown' in part]
    return [''.join(text) for text in prose + outputs]

def anchors(path):
    "What a link can name behind #: a heading; as it is in JupyterLab, lower-case words on GitHub."
    prose = [re.sub(r'^```.*?^```', '', text, flags=re.M | re.S) for text in texts(path)]
    headings = [heading for text in prose for heading in re.findall(r'^#{1,6}\s+(.+?)\s*#*\s*$', text, re.M)]
    if path.suffix == '.ipynb': return {heading.replace(' ', '-') for heading in headings}
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}

def links(path):
    "The targets of all links that do not leave the project."
    found = [''.join(groups) for text in texts(path) for groups in LINK.findall(CODE.sub('', text))]
    return [link for link in found if not re.match(r'[a-z][a-z+.-]*:', link, re.I)]

def broken(path):
    "The links of a document that lead nowhere."
    wrong = []
    for link in links(path):
        name, _, anchor = unquote(link).partition('#')
        target = (path.parent/name) if name else path
        inside = target.resolve().is_relative_to(ROOT) or not path.is_relative_to(ROOT)
        if not (inside and target.exists()) or anchor and anchor not in anchors(target): wrong.append(link)
    return wrong

@pytest.mark.parametrize('document', DOCUMENTS)
def test_links(document):
    "Each leads to a file, and to a heading when it names one."
    assert broken(ROOT/document) == []

def test_readme():
    "README.md links to the chapters from the root."
    assert sum(link.startswith('nbs/') for link in links(ROOT/'README.md')) >= 49

@pytest.mark.parametrize('text, wrong', [
    ('[a](there.md)', []), ('[a](there.md#two-words)', []), ('[a](#here)', []),
    ('![a](there.md "title")', []),
    ('`[a](no.md)`', []), ('```\n[a](no.md)\n```', []), ('[a](https://example.org/no)', []),
    ('[a](book.ipynb#Two-words!)', []), ('[a](book.ipynb#two-words)', ['book.ipynb#two-words']),
    ('[a](no.md)', ['no.md']), ('[a](there.md#three)', ['there.md#three']), ('[a](#there)', ['#there']),
    ('![a](no.png)', ['no.png']), ('[a]: no.md', ['no.md']), ('<img src="no.png">', ['no.png']),
    ('`x` [a](no.md) `y`', ['no.md']),
])
def test_broken(tmp_path, text, wrong):
    "What counts as a link, and which links are broken."
    (tmp_path/'there.md').write_text('# Two words!\n')
    cells = [dict(cell_type='markdown', source=['# Two words!'])]
    (tmp_path/'book.ipynb').write_text(json.dumps(dict(cells=cells)))
    (tmp_path/'text.md').write_text(f'# Here\n{text}\n')
    assert broken(tmp_path/'text.md') == wrong
