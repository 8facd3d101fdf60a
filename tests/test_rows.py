"""What becomes of rows that users bring: read to the last character, or refused by file and row."""
import gzip, json, os, sys, tempfile, unicodedata
os.environ |= dict(HF_HUB_OFFLINE='1', TQDM_DISABLE='1', HF_DATASETS_DISABLE_PROGRESS_BARS='1',
                   HF_DATASETS_CACHE=tempfile.mkdtemp())
import datasets, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest

from gte_nb.data import cleaning, files as own_files
from gte_nb.data.own_texts import read_texts
from gte_nb.data.cleaning import LANGUAGE, NEAR_DUPLICATE, REPEATED, CopyIndex, evaluation_texts, flag_rows
from gte_nb.data.corpus import Corpus, fingerprint
from gte_nb.data.files import from_files
from gte_nb.data.registry import load
from gte_nb.data.text import normalise
from gte_nb.model.embedder import Embedder
from gte_nb.model.bm25 import BM25, code_words
from gte_nb.training.negatives import known_links, mine_hard_negatives

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

def first_rows(corpus): return {fault: first['row'] for fault, first in corpus.manifest['skipped'].items()}

def refusal(function, *arguments, **how):
    "The sentence of a ValueError."
    with pytest.raises(ValueError) as error: function(*arguments, **how)
    return str(error.value)

# Quotation marks. A hundred rows, of which row 11 opens a mark.
def hundred(delimiter=',', **changed):
    lines = [f'question {i}{delimiter}answer {i}' for i in range(1, 101)]
    for row, line in changed.items(): lines[int(row[1:]) - 1] = line.replace(',', delimiter)
    return f'query{delimiter}document\n' + '\n'.join(lines) + '\n'

OPEN, CLOSES = '"question 11,answer 11', 'a screen of 15",answer 61'
LISTS = ''.join(f'q{i},"some\nprose"\n' for i in range(9))
CODE = 'def f(a, b):\n    g(a, b)\n    return a, b\n'*30

MARKS = { # name: rows, what the refusal says
    'never closed': (hundred(r11=OPEN),
                     'row 11, \'"question 11,answer 11\': a quotation mark is never closed and takes in 89'),
    'closed by chance': (hundred(r11=OPEN, r61=CLOSES),
                         'row 11: a quoted field takes in 51 lines that look like rows'),
    'closed by chance in the next row': (hundred(r11=OPEN, r12=CLOSES),
                                         'row 11: a quoted field takes in 2 lines'),
    'closed by chance, bad rows within': (hundred(r11=OPEN, r20='', r30='one side', r61=CLOSES),
                                          'takes in 51 lines'),
    'closed by chance, and a field too many': (hundred(r11=OPEN, r61=CLOSES + ',more'), 'takes in 51 lines'),
    'closed by the next mark': (hundred(r11=OPEN, r61='what,"one, two"'),
                                'row 11, \'"question 11,answer 11\': text stands'),
    'prose that begins with a mark': (hundred(r11='"Hello" in C,answer'),
                                      'row 11, \'"Hello" in C,answer\': text stands behind'),
    'tabs, never closed': (hundred('\t', r11=OPEN),
                           'row 11, \'"question 11\\tanswer 11\': a quotation mark is never'),
    'tabs, closed by chance': (hundred('\t', r11=OPEN, r61=CLOSES),
                               'row 11: a quoted field takes in 51 lines'),
    'tabs, prose that begins with a mark': (hundred('\t', r11='"Hello" in C,answer'), 'text stands behind'),
}

@pytest.mark.parametrize('content, sentence', MARKS.values(), ids=MARKS)
def test_marks_that_swallow_rows_are_refused(tmp_path, content, sentence):
    name, delimiter = ('a.tsv', '\t') if '\t' in content else ('a.csv', ',')
    said = refusal(read, tmp_path, name, content)
    assert sentence in said and f'{name}, row 11' in said and "quoting='none'" in said
    assert refusal(read_texts, [tmp_path/name]).startswith(said.partition(", or read the file with")[0])
    assert not list((tmp_path/'cache').rglob('*.parquet'))
    pairs, corpus = read(tmp_path, name, content, quoting='none')
    lines = [line for line in content.splitlines()[1:] if line]
    assert pairs['query'].tolist() == [line.split(delimiter)[0] for line in lines
                                       if line.count(delimiter) == 1]
    assert len(pairs) + sum(first['rows'] for first in corpus.manifest['skipped'].values()) == len(lines)

def test_a_mark_in_the_header(tmp_path):
    assert 'a.csv, row 0' in refusal(read, tmp_path, 'a.csv', '"query,document\na,b\n')

RIGHT = {
    'a field of many lines': ('A list?,"one\ntwo\n\nthree, four"\n"What is\nit?",That.\n',
                              [('A list?', 'one\ntwo\n\nthree, four'), ('What is\nit?', 'That.')]),
    'a field of code': (''.join(f'q{i},short\n' for i in range(200)) + f'How?,"{CODE}"\n',
                        [*((f'q{i}', 'short') for i in range(200)), ('How?', CODE)]),
    'marks written twice': ('"Say ""hi""","""Hi"", she said"\n', [('Say "hi"', '"Hi", she said')]),
    'marks within prose': ('A 15" screen?,Say "hi".\n', [('A 15" screen?', 'Say "hi".')]),
    'lists of pairs among texts of lines': (LISTS + 'What pairs?,"a,b\nc,d"\n"x\ny,z\nu,v",w\n', [
        *((f'q{i}', 'some\nprose') for i in range(9)), ('What pairs?', 'a,b\nc,d'), ('x\ny,z\nu,v', 'w')]),
    'lines of windows': ('"two\r\nlines",x\r\nq,d\r\n', [('two\r\nlines', 'x'), ('q', 'd')]),
}

@pytest.mark.parametrize('content, rows', RIGHT.values(), ids=RIGHT)
def test_what_a_writer_of_csv_writes_is_read(tmp_path, content, rows):
    pairs, corpus = read(tmp_path, 'a.csv', 'query,document\n' + content)
    assert list(zip(pairs['query'], pairs['document'])) == rows and not corpus.manifest['skipped']

def test_lists_that_look_like_rows_are_noted_among_other_texts(tmp_path, capsys):
    for _ in range(2):                                   # also when the corpus is found in the cache
        pairs, _ = read(tmp_path, 'a.csv', f'query,document\n{LISTS}"a,b\nc,d\ne",w\n')
        said = capsys.readouterr().out
        assert '1 of the 10 rows of several lines in a.csv' in said and 'the first is row 10, of 3' in said
        assert len(pairs) == 10

def test_quoting_is_one_of_two(tmp_path):
    assert "quoting is 'some'; it must be 'csv' or 'none'" in refusal(read, tmp_path, 'a.csv', hundred(),
                                                                      quoting='some')
    queries = [read(tmp_path, 'a.csv', 'query,document\n"a b",c\n', quoting=how)[0]['query'][0]
               for how in ('csv', 'none', 'csv')]
    assert queries == ['a b', '"a b"', 'a b']            # each has a cache of its own

# Columns. What a file says about its pairs is used, or said in a sentence.
def lines(*rows): return '\n'.join(map(json.dumps, rows)) + '\n'
def pair(**more): return dict(query='q', document='d', **more)

def pairs_of(*rows): return [dict(row, query=f'q{i}') for i, row in enumerate(rows)]

NEGATIVES = {
    'one': (lines(pair(negative='n'), pair()), [['n'], []]),
    'numbered, in order': (lines(pair(negative_10='ten', negative_2='two', negative_1='one')),
                           [['one', 'two', 'ten']]),
    'as mine_hard_negatives writes them': (
        'query,document,negative_1,negative_2,negative_similarity_1\nq,d,one,two,0.5\nq,d,one,,0.5\nq,d,,,\n',
        [['one', 'two'], ['one'], []]),
    'a list': (lines(*pairs_of(pair(negatives=['one', '', None, 'two']), pair(negatives=[]),
                               pair(negatives=None))),
               [['one', 'two'], [], []]),
    'a list in the column negative': (lines(pair(negative=['one', 'two'])), [['one', 'two']]),
    'a list in csv': ('query,document,negatives\nq,d,"[""one"", ""two""]"\nq,d,\n', [['one', 'two'], []]),
    'both': (lines(pair(negative='one', negatives=['two', 'three'])), [['one', 'two', 'three']]),
    'text with brackets is no list': ('query,document,negative\nq,d,[1]\n', [['[1]']]),
    'nothing to see': (lines(*pairs_of(pair(negative='\u200b'), pair(negative=' \t'),
                                       pair(negatives=['\ufeff', 'n']))),
                       [[], [], ['n']]),
}

@pytest.mark.parametrize('content, negatives', NEGATIVES.values(), ids=NEGATIVES)
def test_all_negatives_are_kept(tmp_path, capsys, content, negatives):
    pairs, corpus = read(tmp_path, 'a.jsonl' if content[0] == '{' else 'a.csv', content)
    several, said = sum(len(each) > 1 for each in negatives), capsys.readouterr().out
    assert ('negative' in pairs, 'negatives' in pairs) == (any(negatives), several > 0)
    if any(negatives): assert pairs['negative'].fillna('').tolist() == [(each or [''])[0]
                                                                        for each in negatives]
    if several: assert [list(value) for value in pairs['negatives']] == negatives
    assert (f'rows with several negatives: {several};' in said) == (several > 0)
    assert fingerprint(pairs) == corpus.manifest['fingerprints']['rows'] and not corpus.manifest['skipped']

def test_negatives_of_parquet_and_saved_data_sets(tmp_path):
    table = pd.DataFrame([pair(negatives=['one', 'two']), pair(negatives=[])])
    table.to_parquet(tmp_path/'a.parquet')
    datasets.Dataset.from_pandas(table).save_to_disk(tmp_path/'saved')
    wanted = {'rows': fingerprint(read(tmp_path, 'a.jsonl',
                                       lines(pair(negatives=['one', 'two']), pair()))[0])}
    for name in ('a.parquet', 'saved'): assert from_files(tmp_path/name,
                                                          name='rows').manifest['fingerprints'] == wanted
    texts = pa.array([b'caf\xe9', b'n']).view(pa.string())
    broken = pa.table(dict(query=['q', 'q'], document=['d', 'd'],
                           negatives=pa.ListArray.from_arrays([0, 1, 2], texts)))
    pq.write_table(broken, tmp_path/'broken.parquet')
    corpus = from_files(tmp_path/'broken.parquet', name='rows')
    assert first_rows(corpus) == {'invalid UTF-8': 1} and corpus.pairs('rows')['negative'].tolist() == ['n']

def test_every_format_holds_the_same_rows(tmp_path):
    documents = [f'Page {i} of “the manual”, with its\nsecond line.' for i in range(60)]
    few = pd.DataFrame(dict(query=[f'Which page is number {i}?' for i in range(60)], document=documents,
                            negative=documents[1:] + documents[:1], id=range(60),
                            split=['train']*50 + ['validation']*5 + ['test']*5))
    few.to_json(tmp_path/'few.jsonl', orient='records', lines=True)
    few.to_json(tmp_path/'few.json.gz', orient='records', lines=True)
    few.to_csv(tmp_path/'few.csv', index=False)
    few.to_csv(tmp_path/'few.tsv', index=False, sep='\t')
    few.to_parquet(tmp_path/'few.parquet')
    few.rename(columns=dict(query='anchor', document='positive')).to_json(
        tmp_path/'few_triples.jsonl', orient='records', lines=True)
    datasets.Dataset.from_pandas(few).save_to_disk(tmp_path/'few_saved')
    splits = {split: datasets.Dataset.from_pandas(rows.drop(columns='split'), preserve_index=False)
              for split, rows in few.groupby('split')}
    datasets.DatasetDict(splits).save_to_disk(tmp_path/'few_splits')
    corpora = {file.name: from_files(file, name='few') for file in sorted(tmp_path.glob('few*'))}
    assert len(corpora) == 8
    assert {each.manifest['fingerprints']['few'] for each in corpora.values()} == {fingerprint(few)}
    assert all(each.manifest['rows'] == {'few': {'train': 50, 'validation': 5, 'test': 5}}
               and not each.manifest['skipped'] for each in corpora.values())
    assert corpora['few.csv'].pairs('few', 'test')['negative'].tolist() == few['negative'].tolist()[-5:]
    both = from_files([tmp_path/'few.parquet', written(tmp_path, 'hundred.csv', hundred())], name='both')
    assert sum(both.manifest['rows']['both'].values()) == 60 + 100

def test_fingerprints_know_every_negative(tmp_path):
    rows = pair(), pair(negative='n'), *(pair(negatives=list(texts)) for texts in ('n', 'nm', 'mn'))
    prints = [read(tmp_path, 'a.jsonl', lines(row))[1].manifest['fingerprints']['rows'] for row in rows]
    assert prints[1] == prints[2] and len(set(prints)) == 4

SAID = {
    'columns': ('query,document,title,lang\nq,d,t,en\n', 'columns not used: title, lang\n'),
    'columns of json, once': (lines(pair(title='t'), pair(title='t', lang='en')),
                              'columns not used: title, lang\n'),
    'a score of 1': ('query,document,score\nq,d,1.0\nq,d,1\nq,d,\n', 'columns not used: score\n'),
    'scores of a list': (lines(pair(score=[0.9, 0.1])), 'columns not used: score\n'),
    'label 0': ('query,document,label\nq,d,1\nbad,d,0\nworse,d,0\nq,d,\n',
                "2 rows skipped: label 0: not a positive pair; the first is row 2 of a.csv: {'query': 'bad'"),
    'label false': (lines(pair(label=True), pair(label=False), pair(label=1.0)),
                    '1 row skipped: label 0: not a positive pair; the first is row 2 of a.jsonl'),
    'label false in csv': ('query,document,label\nq,d,True\nbad,d,False\n', '1 row skipped: label 0'),
    'split': (lines(pair(), pair(split='valid')),
              '1 row skipped: unknown split (known: train, validation, test); the first '
              "is row 2 of a.jsonl: {'query': 'q', 'document': 'd', 'split': 'valid'}"),
    'nothing to see': (lines(pair(), dict(query='q', document='\u200b\ufeff')),
                       '1 row skipped: no visible character; the first is row 2 of a.jsonl'),
    'negatives that are no list': ('query,document,negatives\nq,d,one; two\nq,d,"[""n""]"\n',
                                   '1 row skipped: not a text'),
}

@pytest.mark.parametrize('content, sentence', SAID.values(), ids=SAID)
def test_what_is_left_out_is_said_at_every_call(tmp_path, capsys, content, sentence):
    for _ in range(2):
        pairs, corpus = read(tmp_path, 'a.jsonl' if content[0] == '{' else 'a.csv', content)
        assert capsys.readouterr().out.count(sentence) == 1
        assert not set(pairs['query']) & {'bad', 'worse'} and len(pairs)
    corpus.report()
    assert sentence in capsys.readouterr().out

def test_rows_know_their_file_and_number(tmp_path):
    for name, content in {'a.jsonl': lines(pair()) + '\n' + lines(dict(pair(), query='r')),
                          'a.csv': 'query,document\n"two\nlines",d\nq\nq,d\n'}.items():
        pairs, _ = read(tmp_path, name, content)
        assert pairs['row'].tolist() == [1, 3] and pairs['row'].dtype == 'int64'
        assert set(pairs['package']) == {name}

INVISIBLE = {'control': '\x01\x7f', 'zero width': '\u200b\u200d\u2060', 'byte order mark': '\ufeff',
             'soft hyphen': '\xad',
             'combining': '\u0301\u0300', 'variation': '\ufe0f', 'private': '\ue000',
             'directions': '\u202e \u200f',
             'lost characters': '\ufffd\ufffd', 'filler': '\u3164', 'braille blank': '\u2800'}

@pytest.mark.parametrize('text', INVISIBLE.values(), ids=INVISIBLE)
def test_texts_that_no_tokenizer_sees_are_skipped(tmp_path, text):
    rows = pair(), dict(query=text, document='d'), dict(query='q', document=text), dict(query=text + 'x',
                                                                                        document='.' + text)
    _, corpus = read(tmp_path, 'a.jsonl', lines(*rows))
    assert list(corpus.manifest['skipped']) == ['no visible character']
    first = corpus.manifest['skipped']['no visible character']
    assert (first['rows'], first['row'], corpus.manifest['rows']) == (2, 2, {'rows': {'train': 2}})

def test_what_the_tokenizer_does_not_see_is_called_invisible():
    def is_tried(code):                                  # of letters and private characters, a few will do
        return not 0xd800 <= code < 0xe000 and (code % 97 == 0
                                                or unicodedata.category(chr(code)) not in ('Lo', 'Cn', 'Co'))
    tokenizer, tried = Embedder.load().tokenizer, [chr(code) for code in range(0x20000) if is_tried(code)]
    unseen = [char for char,
              found in zip(tried, tokenizer.encode_batch(tried, add_special_tokens=False)) if not found.ids]
    assert len(unseen) > 1_000 and not any(map(own_files._visible, unseen))
    assert all(map(own_files._visible, ['a', '?', 'é', '中', 'ก', '👍', '१']))

# Refusals: a sentence that names file, row, value and way out; nothing is left behind.
LINE = b'{"query": "a", "document": "b"}\n'
PARQUET = pd.DataFrame([pair(negative='n'*9, id=i) for i in range(999)]).to_parquet()

REFUSED = {
    'columns': ('columns.csv', b'question,answer\na,b\n',
                'has the columns question, answer; from_files needs query and document'),
    'columns of json': ('columns.jsonl', b'{"question": "a", "answer": "b"}\n',
                        'has the columns question, answer'),
    'a column twice': ('a.csv', 'query,document,document\na,b,c\n',
                       'a.csv has the columns query, document, document; leave one for the query and'),
    'two names for a side': ('a.jsonl', lines(pair(positive='p')),
                             'has the columns query, document, positive; leave one'),
    'cut parquet': ('cut.parquet', PARQUET[:3_000], 'cut.parquet cannot be read'),
    'cut gzip': ('cut.jsonl.gz', gzip.compress(LINE*10_000)[:-200], 'cut.jsonl.gz cannot be read beyond row'),
    'packed': ('packed.jsonl', gzip.compress(LINE),
               'is compressed with gzip, which its name does not say; rename it to packed.jsonl.gz'),
    'not packed': ('plain.jsonl.gz', LINE, 'is not compressed with gzip; rename it to plain.jsonl'),
    'array': ('array.json', b'[{"query": "a", "document": "b"}]',
              'holds JSON arrays; from_files needs one object on each line'),
    'nothing': ('nothing.jsonl', b'', 'nothing.jsonl is empty'),
    'a header only': ('header.csv', b'query,document\n', 'no row is left of'),
    'numbers': ('numbers.jsonl', b'{"query": 1, "document": 2}\n',
                "1 row skipped: not a text; the first is row 1 of numbers.jsonl: {'query': 1"),
    'another kind': ('thesis.docx', b'PK', 'from_files reads .jsonl, .json, .csv, .tsv, .parquet'),
    'a line of 65 MB': ('quote.csv', b'query,document\n"never closed,' + b'x'*(65 << 20),
                        'quote.csv cannot be read'),
    'no known split': ('a.csv', 'query,document,split\nq,d,val\nq,d,dev\n', 'no row is left of'),
    'the known splits': ('a.csv', 'query,document,split\nq,d,val\nq,d,dev\n',
                         '2 rows skipped: unknown split (known: train, validation, test)'),
    'a grade': ('a.csv', 'query,document,score\nq,d,1.0\nq,d,0.35\n',
                "a.csv, row 2 has the score '0.35', and from_files takes pairs that belong together"),
    'a grade of json': ('a.jsonl', lines(pair(score=4.2)), 'a.jsonl, row 1 has the score 4.2'),
    'a label that is no yes or no': ('a.jsonl', lines(pair(label=1), pair(label='entailment')),
        "a.jsonl, row 2 has the label 'entailment'; from_files takes 1 for a pair that belongs together"),
    'a third label': ('a.csv', 'query,document,label\nq,d,2\n', "a.csv, row 1 has the label '2'"),
    'labels of a list': ('a.jsonl', lines(pair(label=[1, 0])), 'row 1 has the label [1, 0]'),
}

@pytest.mark.parametrize('name, content, sentence', REFUSED.values(), ids=REFUSED)
def test_a_file_is_refused_and_nothing_left_behind(tmp_path, name, content, sentence):
    "Beside a good file, whose rows stay for the next call, nothing is there that would be taken for whole."
    bad, good = written(tmp_path, name, content), written(tmp_path, 'good.csv', hundred())
    def left_behind(): return [path for path in (tmp_path/'cache').rglob('*') if path.is_file()
                               and path.suffix != '.lock']
    assert sentence in (said := refusal(from_files, bad)) and not left_behind()
    if 'no row is left' not in said:
        assert refusal(from_files, [good, bad])
        assert not {'corpus.json', 'source.json'} & {file.name for file in left_behind()}

def test_what_is_no_file_of_rows(tmp_path):
    assert 'is a folder, but no data set' in refusal(from_files, tmp_path)
    assert 'nowhere.csv does not exist' in refusal(from_files, tmp_path/'nowhere.csv')
    assert 'needs at least one file' in refusal(from_files, [])
    good, mine = written(tmp_path, 'few.csv', hundred()), tmp_path/'mine'
    mine.mkdir(); (mine/'thesis.txt').write_text('years of work')
    assert 'holds other things than a corpus' in refusal(from_files, good,
                                                         mine) and (mine/'thesis.txt').exists()
    assert 'it holds few' in refusal(from_files(good).pairs, 'fw')
    assert 'holds no functions' in refusal(from_files(good).functions)
    assert 'holds no corpus' in refusal(Corpus, tmp_path)

FINE = [dict(query='Grinning: 😀', document='Zähne', id=1),
        dict(query='Is nan a text?', document='nan', id=2),
        dict(query='In one line?', document='No:\n\ntwo', negative='\t')]
BAD = {
    'malformed JSON': b'{"query": "Both empty?", "document": ',
    'empty': b'{"query": " ", "document": ""}',
    'NaN': b'{"query": NaN, "document": "a text"}',
    'not a text': b'{"query": ["a", "list"], "document": "a text"}',
    'one-sided': b'{"document": "only one side"}',
    'longer than 1,000,000 characters': b'{"query": "Too long?", "document": "' + b'x'*10_000_000 + b'"}',
    'lone surrogate': b'{"query": "half a pair of surrogates: \\ud83d", "document": "a text"}',
    'invalid UTF-8': b'{"query": "caf\xe9 in Latin-1", "document": "a text"}',
    'unknown split': b'{"query": "Which split?", "document": "a text", "split": "dev"}',
    'duplicate id': b'{"query": "The same id again?", "document": "a text", "id": 1}',
}

def test_every_kind_of_bad_row(tmp_path):
    good = [json.dumps(row).encode() for row in FINE]
    pairs, corpus = read(tmp_path, 'bad.jsonl', b'\n'.join([good[0], *BAD.values(), b'', *good[1:]]) + b'\n')
    wanted = [(row['query'], row['document'], str(row.get('id', ''))) for row in FINE]
    assert [(row.query, row.document, row.name) for row in pairs.itertuples()] == wanted
    found = [(fault, first['rows'], first['row']) for fault, first in corpus.manifest['skipped'].items()]
    assert found == [(fault, 1, row) for row, fault in enumerate(BAD, 2)]

def test_bad_rows_of_csv_and_parquet(tmp_path):
    rows = ('query,document\nWho?,Ada\ncafé,Latin\n'.encode('latin-1') +
            b'Too,many,fields\n"A line\nwithin a text",fine\n'
            b'Long?,' + b'x'*10_000_000 + b'\n')
    pairs, corpus = read(tmp_path, 'bad.csv', rows)
    assert pairs['query'].tolist() == ['Who?', 'A line\nwithin a text']
    assert first_rows(corpus) == {'invalid UTF-8': 2, 'wrong number of fields': 3,
                                  'longer than 1,000,000 characters': 5}
    anchors = pa.array([b'good', b'caf\xe9', b'', b'fine']).view(pa.string())
    pq.write_table(pa.table(dict(anchor=anchors, positive=['one', 'two', None, 'four'])),
                   tmp_path/'bad.parquet')
    corpus = from_files(tmp_path/'bad.parquet', name='bad_parquet')
    assert corpus.pairs('bad_parquet')['query'].tolist() == ['good', 'fine']
    assert first_rows(corpus) == {'invalid UTF-8': 2, 'empty': 3}

# Sources of the registry
def test_load_says_what_it_lacks(tmp_path, monkeypatch):
    titles, bodies = zip(*((f'title {i}', f'body {i} '*9) for i in range(99)))
    reference = pd.DataFrame(dict(title=titles, body=bodies))
    for name in ('empty', 'wrong', 'mixed', 'torn', 'uneven', 'lines'): (tmp_path/name).mkdir()
    reference.rename(columns=dict(body='text')).to_parquet(tmp_path/'wrong/a.parquet')
    reference.to_parquet(tmp_path/'mixed/a.parquet')
    (tmp_path/'mixed/b.jsonl').write_text('{"title": "t", "body": "b"}\n')
    (tmp_path/'torn/a.parquet').write_bytes(reference.to_parquet()[:2_000])
    reference.to_parquet(tmp_path/'uneven/a.parquet')
    reference.rename(columns=dict(title='query', body='document')).to_parquet(tmp_path/'uneven/b.parquet')
    reference.to_json(tmp_path/'lines/part.jsonl.gz', orient='records', lines=True)
    for sentence, folder in {'holds no .parquet': 'empty', 'is no folder': 'nowhere',
                             'mixes parquet and JSON': 'mixed',
                             "a.parquet has no column 'body', only title, text": 'wrong',
                             'do not agree': 'uneven',
                             'a.parquet cannot be read': 'torn'}.items():
        assert sentence in refusal(load, 'npr', tmp_path/folder)
    for sentence, name in {"called 'redit_title_body'; close: reddit_title_body": 'redit_title_body',
                           'no public copy of common_crawl is known': 'common_crawl',
                           'is mined on your machine': 'docstring_code',
                           '(confidence: unverified)': 'cnn_dailymail',
                           'gooaq: sentence-transformers/gooaq cannot be had from the hub': 'gooaq'}.items():
        assert sentence in refusal(load, name)
    monkeypatch.setitem(sys.modules, 'datasets', None)
    assert 'pip install datasets' in refusal(load, 'npr', tmp_path/'lines')

# Equality: words of any script, and the signs that change what is meant
EQUAL = { # name: a text, what is left of it, texts that are the same
    'case and layout': ('`DataFrame.merge`: Straße, ÉCOLE!', 'dataframe merge strasse école',
                        ['DATAFRAME (merge) STRASSE "École"', 'dataframe, merge; straße — e\u0301cole…']),
    'C': ('C', 'c', ['“C”.', '(c)', 'C,']),
    'C++': ('C++', 'c++', ['c ++', '(C++)!']),
    'C#': ('C#', 'c#', ['c#.']),
    'equal': ('a == b', 'a== b', ['a==b', '`A == B`.']),
    'unequal': ('a != b', 'a!= b', ['a!=b', 'A != B!']),
    'minus': ('return -1', 'return- 1', ['Return `-1`.']),
    'hyphen': ('well-known', 'well known', ['Well-known.', 'well known', 'well—known']),
    'option': ('--flag', '--flag', ['`--flag`']),
    'not': ('!x', '!x', ['(!X)']),
    'emoji': ('👍', '👍', ['👍!', ' "👍" ']),
    'signs alone': ('==', '==', ['"=="', '= =']),
    'arrow': ('x → y', 'x→ y', ['X→Y']),
    'ligature': ('ﬁle ½', 'file 1⁄ 2', ['FILE ½']),
    'soft hyphen': ('co\xadoperate', 'cooperate', ['cooperate', 'Co\u200boperate']),
    'russian': ('Собрать все строки!', 'собрать все строки', ['СОБРАТЬ — ВСЕ «строки»']),
    'greek': ('ΟΔΟΣ και ΛΌΓΟΣ', 'οδοσ και λόγοσ', ['οδος και λόγος']),
    'hindi': ('हिन्दी में किताब।', 'हिन्दी में किताब', ['(हिन्दी में किताब)']),
    'chinese': ('这是 一个例子。', '这 是 一 个 例 子', ['这是一个例子', '「这是一个例子」！']),
    'thai': ('ภาษาไทย', 'ภ า ษ า ไ ท ย', ['ภาษา ไทย']),
    'nothing': ('?!', '', ['', ' … ', '«»']),
}

@pytest.mark.parametrize('text, wanted, others', EQUAL.values(), ids=EQUAL)
def test_what_counts_as_the_same_text(text, wanted, others):
    same = [text, *others]
    assert [normalise(each) for each in same] == [wanted]*len(same)
    exact = cleaning._read([*same, *(other for other,
                                     *_ in EQUAL.values() if other != text)]).exact    # says the same
    assert len(set(exact[:len(same)])) == 1 and exact[0] not in exact[len(same):]

def test_cleaning_cuts_texts_as_normalise_does():
    alphabet = list('ab1_ \n.-!=+#<*"(éßİΣςก้ิ中文กหि्हキ゛ー😀→\u0301\u200d\ufe0f²½၁k')
    rng = np.random.default_rng(0)
    texts = [''.join(rng.choice(alphabet, rng.integers(0, 14))) for _ in range(20_000)]
    words, tokens = cleaning._read(texts), [tuple(normalise(text).split()) for text in texts]
    counts = np.diff(words.first)
    assert all(count == len(token) or (count, len(token)) == (0, 1) for count,
               token in zip(counts, tokens))    # signs alone
    hash_of = {}
    for start, stop, token in zip(words.first, words.first[1:], tokens):
        for word, number in zip(token, words.hashes[start:stop]): assert hash_of.setdefault(word,
                                                                                            number) == number
    assert len(set(hash_of.values())) == len(hash_of) > 1_000
    assert len(set(zip(tokens, words.exact))) == len(set(tokens)) == len(set(words.exact))

def queries(*texts):
    documents = [f'document number {i} of them all' for i in range(len(texts))]
    return pd.DataFrame(dict(query=texts, document=documents, name='x', split='train'))

def test_flags_tell_signs_apart():
    assert not flag_rows(queries('Raise when a == b', 'Raise when a != b', 'Compile it with C',
                                 'Compile it with C++')).any()
    assert flag_rows(queries('Raise when a == b', 'raise when `a==b`.'))[1] == REPEATED
    long = ' '.join(f'word{i}' for i in range(30))
    assert flag_rows(queries(f'{long} + 1', f'{long} - 1'))[1] == NEAR_DUPLICATE
    assert CopyIndex(['Raise when a != b']).find(['Raise when a == b', 'raise when a!=b']).tolist() == [-1, 0]
    assert flag_rows(queries('Собрать все строки таблицы'))[0] == LANGUAGE

def test_flags_refuse():
    def source(*rows): return pd.DataFrame(rows, columns=['query', 'document', 'name', 'split'], dtype=object)
    assert 'text 1 is None' in refusal(cleaning.near_duplicates, ['text', None])
    rows = source(('a', 'b', 'x', 'train'), ('a', float('nan'), 'x', 'test'))
    assert 'column document: text 1 is nan' in refusal(flag_rows, rows)
    assert "split 'dev' is none of" in refusal(flag_rows, source(('a', 'b', 'x', 'dev')))
    assert 'no column document, name, split' in refusal(flag_rows, pd.DataFrame(dict(query=['a'])))

def test_test_sets_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no parquet file'): evaluation_texts(tmp_path)
    (tmp_path/'bad.parquet').write_text('no parquet')
    assert 'bad.parquet cannot be read' in refusal(evaluation_texts, tmp_path)

# Words for counting
WORDS = {
    'Compile C++17 with g++, not C# or C': ['compile', 'c++', '17', 'with', 'g++', 'not', 'c#', 'or', 'c'],
    'def readCsv(file_path2): # HTTPServer': ['def', 'read', 'csv', 'file', 'path', '2', 'httpserver'],
    'page#section a#b count++': ['page', 'section', 'a', 'b', 'count'],
    'ПрочитатьФайл построчно': ['прочитать', 'файл', 'построчно'],
    'Ανάγνωση αρχείου': ['ανάγνωση', 'αρχείου'],
    'हिन्दी में किताब १२': ['हिन्दी', 'में', 'किताब', '१२'],
    '读取文件 Python编程 中': ['读取', '取文', '文件', 'python', '编程', '中'],
    'ファイル': ['ファ', 'ァイ', 'イル'],
    'สวัสดี': ['สวั', 'วัส', 'สดี'],
    '한국어 텍스트': ['한국어', '텍스트'],
    'cafe\u0301 naïve ＡＢＣ': ['café', 'naïve', 'abc'],
    '?! …': [],
}

@pytest.mark.parametrize('text', WORDS)
def test_words_for_counting(text): assert code_words(text) == WORDS[text]

TEXTS = {
    'russian': ['Прочитать файл построчно', 'Записать таблицу в файл', 'Закрыть соединение с базой'],
    'greek': ['Διάβασε το αρχείο', 'Γράψε τον πίνακα', 'Κλείσε τη σύνδεση'],
    'hindi': ['फ़ाइल को पढ़ें', 'तालिका लिखें', 'संयोजन बंद करें'],
    'chinese': ['逐行读取文件', '把表格写入磁盘', '关闭数据库连接'],
    'thai': ['อ่านไฟล์ทีละบรรทัด', 'เขียนตาราง', 'ปิดการเชื่อมต่อ'],
    'languages': ['Use C++ for it', 'Use C# for it', 'Use C for it'],
}

@pytest.mark.parametrize('texts', TEXTS.values(), ids=TEXTS)
def test_words_find_texts_of_any_script(texts):
    scores = BM25().scores(texts, texts)
    assert (scores.argmax(1) == range(3)).all() and (scores.diagonal() > 0).all()

def test_mining_by_words_in_any_script():
    pairs = pd.DataFrame(dict(query=['读取文件', '写入文件'],
                              document=['逐行读取一个文件', '把表格写入文件']))
    mined = mine_hard_negatives(BM25(), pairs, within=None, absolute_margin=None)
    assert mined['negative'].tolist() == ['把表格写入文件', '逐行读取一个文件']

# Hard negatives: what is known to be right, and refusals
def test_known_links_hold_in_both_directions():
    is_known = known_links(np.array([0, 0, 5]), np.array([1, 2, 0]))      # 0 → 1, 0 → 2, 5 → 0
    known = {0: [0, 1, 2, 5], 1: [0], 3: []}
    assert is_known(np.array([[0], [1], [3]]),
                    np.arange(6)).tolist() == [[i in known[q] for i in range(6)] for q in known]

class Angles:
    "Each text is an angle in degrees."
    length = 1
    def encode(self, texts):
        angle = np.radians([float(text.split()[-1]) for text in texts])
        return self.length * np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

class Unnormalised(Angles): length = 3

ROWS = pd.DataFrame(dict(query=[f'query {i}' for i in range(8)],
                         document=[f'positive {i + 40}' for i in range(8)], module='m'))
POOL = pd.DataFrame(dict(module='m', text=[f'far {i}' for i in range(80, 90)]))

def spoiled(table, row, column, value):
    table = table.astype(object)
    table.loc[row, column] = value
    return table

NO_DOCUMENT, NO_QUERY = spoiled(ROWS, 7, 'document', np.nan), spoiled(ROWS, 3, 'query', ' ')
MINING = [ # what is said, pairs, candidates, settings
    ('pairs come as list', [('a query', 'a document')], None, {}),
    ('pairs has no column module; it has query, document', ROWS.drop(columns='module'), POOL, {}),
    ('give it, or within=None', ROWS[['query', 'document']], None, {}),
    ('candidates has no column text', ROWS, POOL.rename(columns=dict(text='summary')), {}),
    ('no candidate is in a module of the pairs', ROWS, POOL[:0], {}),
    ('there are no candidates', ROWS, [], dict(within=None)),
    ('candidates are a list, in which no text has a module', ROWS, ['a text'], {}),
    ("candidates are one text, 'far 80'; give a list of texts", ROWS, 'far 80', dict(within=None)),
    ("candidates are one text, 'far 80'", ROWS, 'far 80', {}),
    ('row 7 of pairs has the document nan; give it a text, or leave the row out', NO_DOCUMENT, POOL, {}),
    ("row 3 of pairs has the query ' '", NO_QUERY, POOL, {}),
    ('row 2 of candidates has the text 5', ROWS, spoiled(POOL, 2, 'text', 5), {}),
    ('row 4 of pairs has no module', spoiled(ROWS, 4, 'module', None), POOL, {}),
    ('num_negatives is 0', ROWS, POOL, dict(num_negatives=0)),
    ('range_min is -1', ROWS, POOL, dict(range_min=-1)),
    ("range_max is '9'", ROWS, POOL, dict(range_max='9')),
    ('3 negatives do not fit between range_min 5 and range_max 7', ROWS, POOL,
     dict(num_negatives=3, range_min=5, range_max=7)),
    ("sampling is 'best'", ROWS, POOL, dict(sampling='best')),
    ("sampling 'random' draws from a window; give range_max", ROWS, POOL, dict(sampling='random')),
    ('near_copies is 1.5', ROWS, POOL, dict(near_copies=1.5)),
    ('absolute_margin is nan', ROWS, POOL, dict(absolute_margin=np.nan)),
    ('max_score is inf', ROWS, POOL, dict(max_score=np.inf)),
]

@pytest.mark.parametrize('sentence, pairs, candidates, settings', MINING,
                         ids=[sentence for sentence, *_ in MINING])
def test_mining_refuses(sentence, pairs, candidates, settings):
    assert sentence in refusal(mine_hard_negatives, Angles(), pairs, candidates, **settings)

def test_mining_refuses_scorers():
    said = refusal(mine_hard_negatives, Unnormalised(), ROWS, POOL)
    assert 'has the length 3; a scorer must give vectors of length 1' in said
    assert 'the scorer is of type builtin_function_or_method' in refusal(mine_hard_negatives, len, ROWS, POOL)
    nothing = mine_hard_negatives(Angles(), ROWS[:0], POOL)
    assert not len(nothing) and 'negative' in nothing
    assert mine_hard_negatives(Angles(), ROWS,
                               POOL)['negative'].str.startswith('far').all()     # unspoiled, all works
