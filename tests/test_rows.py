"""What becomes of rows that users bring: read to the last character, or refused in one sentence that names file and row."""
import os
os.environ['HF_HUB_OFFLINE'] = os.environ['TQDM_DISABLE'] = '1'
import pytest

from gte_nb.corpus import from_files

@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch): monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))

def written(folder, name, content):
    "A file with this content."
    file = folder/name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file

def read(folder, name, content, **how):
    "The table of a file's rows, and its corpus."
    corpus = from_files(written(folder, name, content), name='rows', **how)
    return corpus.pairs('rows'), corpus

# Quotation marks. A hundred rows, of which row 11 opens a mark.
def hundred(delimiter=',', **changed):
    lines = [f'question {i}{delimiter}answer {i}' for i in range(1, 101)]
    for row, line in changed.items(): lines[int(row[1:]) - 1] = line.replace(',', delimiter)
    return f'query{delimiter}document\n' + '\n'.join(lines) + '\n'

OPEN, CLOSES = '"question 11,answer 11', 'a screen of 15",answer 61'
CODE = 'def f(a, b):\n    g(a, b)\n    return a, b\n'*30

MARKS = {
    'never closed': ('a.csv', hundred(r11=OPEN), 'a.csv, row 11, \'"question 11,answer 11\': a quotation mark is never closed and takes in 89 lines'),
    'never closed in tsv': ('a.tsv', hundred('\t', r11=OPEN), 'a.tsv, row 11'),
    'closed by chance': ('a.csv', hundred(r11=OPEN, r61=CLOSES), 'a.csv, row 11: a quoted field takes in 51 lines that look like rows'),
    'closed by chance in the next row': ('a.csv', hundred(r11=OPEN, r12=CLOSES), 'row 11: a quoted field takes in 2 lines'),
    'closed by chance in tsv': ('a.tsv', hundred('\t', r11=OPEN, r61=CLOSES), 'row 11: a quoted field takes in 51 lines'),
    'closed by chance, bad rows within': ('a.csv', hundred(r11=OPEN, r20='', r30='one side', r61=CLOSES), 'takes in 51 lines'),
    'closed by chance, and a field too many': ('a.csv', hundred(r11=OPEN, r61=CLOSES + ',more'), 'takes in 51 lines'),
    'closed by the next mark': ('a.csv', hundred(r11=OPEN, r61='what,"one, two"'), 'row 11, \'"question 11,answer 11\': text stands behind a closing'),
    'prose that begins with a mark': ('a.csv', hundred(r11='"Hello" in C,answer'), 'row 11, \'"Hello" in C,answer\': text stands behind a closing'),
    'prose that begins with a mark in tsv': ('a.tsv', hundred('\t', r11='"Hello" in C,answer'), 'text stands behind'),
    'header': ('a.csv', '"query,document\na,b\n', 'a.csv, row 0'),
}

@pytest.mark.parametrize('name, content, sentence', MARKS.values(), ids=MARKS)
def test_marks_that_swallow_rows_are_refused(tmp_path, name, content, sentence):
    with pytest.raises(ValueError) as refusal: read(tmp_path, name, content)
    assert sentence in str(refusal.value) and "quoting='none'" in str(refusal.value)
    assert not list((tmp_path/'cache').rglob('*.parquet'))
    if 'query' not in content.splitlines()[0].split(','): return             # without its rows the header has no columns
    pairs, corpus = read(tmp_path, name, content, quoting='none')
    lines = content.splitlines()[1:]
    assert pairs['query'].tolist() == [line.split(',')[0] for line in lines if line.count(',') == 1]
    assert len(pairs) + sum(first['rows'] for first in corpus.manifest['skipped'].values()) == len(list(filter(None, lines)))

RIGHT = {
    'a field of many lines': (f'query,document\nA list?,"one\ntwo\n\nthree, four"\n"What is\nit?",That.\n', [('A list?', 'one\ntwo\n\nthree, four'), ('What is\nit?', 'That.')]),
    'a field of code': (f'query,document\n' + ''.join(f'q{i},short\n' for i in range(200)) + f'How?,"{CODE}"\n', [*((f'q{i}', 'short') for i in range(200)), ('How?', CODE)]),
    'marks written twice': ('query,document\n"Say ""hi""","""Hi"", she said"\n', [('Say "hi"', '"Hi", she said')]),
    'marks within prose': ('query,document\nA 15" screen?,Say "hi".\n', [('A 15" screen?', 'Say "hi".')]),
    'lists of pairs among texts of lines': ('query,document\n' + ''.join(f'q{i},"some\nprose"\n' for i in range(9)) + 'What pairs?,"a,b\nc,d"\n"x\ny,z\nu,v",w\n',
                                            [*((f'q{i}', 'some\nprose') for i in range(9)), ('What pairs?', 'a,b\nc,d'), ('x\ny,z\nu,v', 'w')]),
    'lines of windows': ('query,document\r\n"two\r\nlines",x\r\nq,d\r\n', [('two\r\nlines', 'x'), ('q', 'd')]),
}

@pytest.mark.parametrize('content, rows', RIGHT.values(), ids=RIGHT)
def test_what_a_writer_of_csv_writes_is_read(tmp_path, content, rows):
    pairs, corpus = read(tmp_path, 'a.csv', content)
    assert list(zip(pairs['query'], pairs['document'])) == rows and not corpus.manifest['skipped']

def test_lists_that_look_like_rows_are_noted_among_other_texts(tmp_path, capsys):
    content = 'query,document\n' + ''.join(f'q{i},"some\nprose"\n' for i in range(9)) + '"a,b\nc,d\ne",w\n'
    for _ in range(2):                                                       # also when the corpus is found in the cache
        pairs, _ = read(tmp_path, 'a.csv', content)
        assert len(pairs) == 10
        assert '1 of the 10 rows of several lines in a.csv' in (said := capsys.readouterr().out) and 'the first is row 10, of 3 lines' in said

def test_quoting_is_one_of_two(tmp_path):
    with pytest.raises(ValueError, match="quoting is 'some'; it must be 'csv' or 'none'"): read(tmp_path, 'a.csv', hundred(), quoting='some')
    marked = 'query,document\n"a b",c\n'
    assert [read(tmp_path, 'a.csv', marked, quoting=how)[0]['query'][0] for how in ('csv', 'none', 'csv')] == ['a b', '"a b"', 'a b']    # each has a cache of its own
