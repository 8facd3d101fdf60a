"""Test sets of one's own: what files become, what is refused by file, row and value, and the command."""
import gzip, json, os

os.environ.setdefault('HF_HUB_OFFLINE', '1')                # before a library reads it

import numpy as np
import pandas as pd
import pytest

from gte_nb.data import mining
from gte_nb.evaluation import evaluate as kinds, tasks
from gte_nb.evaluation.evaluate import BM25, STS, Retrieval, _scores, remembering
from gte_nb.evaluation.own_tasks import read_task
from gte_nb.evaluation.scores import gte_evaluate

def lines(*rows): return '\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows) + '\n'
def texts(*ids, **more): return [dict(_id=id, text=f'about {id}', **more) for id in ids]
HEADER = 'query-id\tcorpus-id\tscore'
TREC = ['q1 0 d1 2', 'q1 0 d2 1', 'q2 0 d2 0', 'q2 0 d3 1', 'q1 0 d3 -1']
BEIR = [HEADER, *('\t'.join(np.array(line.split())[[0, 2, 3]]) for line in TREC)]
SEARCH = {'corpus.jsonl': texts('d1', 'd2', 'd3'), 'queries.jsonl': texts('q1', 'q2'), 'qrels/test.tsv': BEIR}

def laid_out(folder, files):
    "Write files: a list of rows, a text, or bytes as they are."
    for name, content in files.items():
        if isinstance(content, list): content = lines(*content)
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder

# Files that say the same become the same task.
def columns(form, rows):
    "Rows as CSV or TSV."
    return pd.DataFrame(rows).to_csv(index=False, sep=dict(csv=',', tsv='\t')[form])
JUDGED = [dict(zip(('query_id', 'corpus_id', 'score'), line.split('\t'))) for line in BEIR[1:]]
PLAIN = [dict(id=row['_id'], text=row['text']) for row in SEARCH['corpus.jsonl']]

@pytest.mark.parametrize('files', [
    {},
    {'qrels/test.tsv': lines(*BEIR).replace('\n', '\r\n')},
    {'qrels/test.tsv': TREC},
    {'qrels/test.tsv': lines(*TREC).replace(' ', '\t')},
    {'qrels/test.tsv': columns('tsv', JUDGED)},
    {'qrels/test.tsv': None, 'qrels/test.csv': columns('csv', JUDGED)},
    {'qrels/test.tsv': None, 'qrels/test.jsonl': [row | dict(score=int(row['score'])) for row in JUDGED]},
    {'qrels/test.tsv': None, 'qrels.jsonl.gz': gzip.compress(lines(*JUDGED).encode())},
    {'corpus.jsonl': None, 'corpus.csv': '\ufeff' + columns('csv', PLAIN)},
    {'corpus.jsonl': None, 'corpus.tsv': columns('tsv', PLAIN)},
    {'corpus.jsonl': [dict(_id='d1', title='about', text='d1', metadata={}), *texts('d2', 'd3', title='')]},
    {'queries.jsonl': [dict(id='q1', query='about q1'), *texts('q2')]},
])
def test_the_same_search_in_other_files(files, tmp_path):
    task, notes = read_task(laid_out(tmp_path/'mine',
        {name: content for name, content in (SEARCH | files).items()
        if content is not None}))
    wanted = Retrieval('', ['about q1', 'about q2'], ['about d1', 'about d2', 'about d3'],
        [{0: 2., 1: 1.}, {2: 1.}])
    assert (task.name, task.key, task.metric, notes) == ('mine', wanted.key, 'nDCG@10', [])

def test_ids_stay_what_the_file_says(tmp_path):
    rows = ['007', '7', 'NA', '1e3', 'null']
    task, _ = read_task(laid_out(tmp_path, {'corpus.csv': lines('id,text', *(f'{id},{id}' for id in rows)),
        'queries.jsonl': [dict(_id=7, text='seven'), dict(_id='NA', text='none')],
        'qrels/test.tsv': [HEADER, '7\t7\t1', 'NA\t007\t1']}))
    assert task.documents == rows and task.right == [{1: 1}, {0: 1}] and task.metric == 'MRR@10'

def test_parquet(tmp_path):
    pd.DataFrame(texts('d1', 'd2', 'd3')).to_parquet(tmp_path/'corpus.parquet')
    pd.DataFrame([row | dict(score=int(row['score'])) for row in JUDGED]).to_parquet(
        tmp_path/'judged.parquet')
    laid_out(tmp_path, SEARCH)
    both = [read_task(tmp_path)[0], read_task(queries=tmp_path/'queries.jsonl', name='other',
        documents=tmp_path/'corpus.parquet', judgements=tmp_path/'judged.parquet')[0]]
    assert both[0].key == both[1].key and both[1].name == 'other'

GROUPS = [dict(text=f'{label} {i}', label=label) for label in ('one', 'two') for i in range(10)]
PAIRS = [dict(text1=f'a {i}', text2=f'b {i}', score=i / 2, label=i % 2) for i in range(4)]
def of(rows, **names):
    return [{names.get(name, name): value for name, value in row.items() if names.get(name, name)}
    for row in rows]

@pytest.mark.parametrize('files, named, kind, name', [
    ({'pairs.jsonl': PAIRS}, 'pairs.jsonl', 'STS', 'pairs'),
    ({'p.csv': columns('csv', of(PAIRS, score='', text1='query', text2='document'))}, 'p.csv',
    'PairClassification',
        'p'),
    ({'t.jsonl': GROUPS}, 't.jsonl', 'Clustering', 't'),
    ({'mine/test.jsonl': GROUPS}, 'mine', 'Clustering', 'mine'),
    ({'mine/test.jsonl': GROUPS, 'mine/train.csv': columns('csv', GROUPS)}, 'mine', 'Classification', 'mine'),
    ({'mine/a-test.jsonl': GROUPS, 'mine/a-train.jsonl': GROUPS}, 'mine/a-test.jsonl', 'Classification', 'a'),
])
def test_a_file_is_what_its_columns_say(files, named, kind, name, tmp_path):
    task, notes = read_task(laid_out(tmp_path, files)/named)
    assert (task.type, task.name, notes) == (kind, name, [])

NOTED = {
    'a document without text': ({'corpus.jsonl': [*SEARCH['corpus.jsonl'], dict(_id='d4', text=' ')]},
        "1 of 4 texts of {0}/corpus.jsonl are empty and left out, first that of 'd4'"),
    'a title is a text': ({'corpus.jsonl': [*SEARCH['corpus.jsonl'], dict(_id='d4', title='x', text=None)]},
    None),
    'a query without a text': ({'queries.jsonl': [*texts('q1', 'q2'), dict(_id='q3', text='')]},
        "1 of 3 texts of {0}/queries.jsonl are empty and left out, first that of 'q3'"),
    'a query that nobody judged': ({'queries.jsonl': texts('q1', 'q2', 'q3')}, '1 of 3 queries of '
        "{0}/queries.jsonl have no relevant document and are left out, for example 'q3'"),
    'half a character': ({'corpus.jsonl': [*SEARCH['corpus.jsonl'], dict(_id='d4', text='\ud83d')]},
        "1 of 4 texts of {0}/corpus.jsonl are empty and left out, first that of 'd4'"),
    'a judgement without a grade': ({'qrels/test.tsv': BEIR, 'qrels/test.csv': columns('csv', [*JUDGED, dict(
        query_id='q2', corpus_id='d1')])}, '1 of 6 rows of {0}/qrels/test.csv lack something and are left '
                                           'out, '
        "first row 6, whose score is ''"),
}
@pytest.mark.parametrize('files, sentence', NOTED.values(), ids=NOTED)
def test_what_is_left_out_is_counted(files, sentence, tmp_path):
    task, notes = read_task(laid_out(tmp_path, SEARCH | files))
    assert task.right == [{0: 2, 1: 1}, {2: 1}] and notes == ([sentence.format(tmp_path)] if sentence else [])

REFUSED = { # files, what is named, what the sentence holds
    'an unknown document': (SEARCH | {'qrels/test.tsv': [*BEIR, 'q2\td9\t1']}, '',
        "qrels/test.tsv, row 6: 'd9' is no id of {0}/corpus.jsonl"),
    'an unknown query': (SEARCH | {'qrels/test.tsv': [*TREC, 'q9 0 d1 1']}, '',
        "qrels/test.tsv, row 6: 'q9' is no id of {0}/queries.jsonl"),
    'a document id twice': (SEARCH | {'corpus.jsonl': texts('d1', 'd2', 'd3', 'd2')}, '',
        "corpus.jsonl, row 4: 'd2' is the id of an earlier row"),
    'a query id twice': (SEARCH | {'queries.jsonl': texts('q1', 'q1')}, '', "queries.jsonl, row 2: 'q1' is "
    "the id"),
    'judged twice': (SEARCH | {'qrels/test.tsv': [*TREC, 'q1 0 d1 1']}, '',
        "row 6: 'd1' is judged 1 for 'q1', and in an earlier row 2"),
    'no id': (SEARCH | {'queries.jsonl': [dict(text='q1')]}, '',
        'queries.jsonl, row 1 has the columns text; it needs id or _id'),
    'an empty id': (SEARCH | {'queries.jsonl': [*texts('q1'), dict(_id=None, text='q')]}, '',
        'queries.jsonl, row 2: the _id None is no id; give one'),
    'no text': (SEARCH | {'corpus.jsonl': [dict(_id='d1', body='d1')]}, '',
        'corpus.jsonl, row 1 has the columns _id, body; it needs text or document'),
    'a grade that is no number': (SEARCH | {'qrels/test.tsv': [*BEIR, 'q2\td1\tgood']}, '',
        "qrels/test.tsv, row 6: the grade 'good' is no number"),
    'a grade that is not finite': (SEARCH | {'qrels/test.tsv': [*TREC, 'q2 0 d1 inf']}, '',
        "row 6: the grade 'inf' is no finite number"),
    'no grade': (SEARCH | {'qrels/test.tsv': [*BEIR, 'q2\td1\t']}, '', "row 6: the grade '' is no number"),
    'three columns without a header': (SEARCH | {'qrels/test.tsv': BEIR[1:]}, '',
        "qrels/test.tsv, row 1: 'q1\\td1\\t2' is no judgement; a file has either the header"),
    'another header': (SEARCH | {'qrels/test.tsv': ['qid 0 docid rel', *TREC]}, '',
        "row 1: the grade 'rel' is no number"),
    'a column too many': (SEARCH | {'qrels/test.tsv': [*TREC, 'q2 0 d1 1 run']}, '',
        "row 6: 'q2 0 d1 1 run' is no judgement"),
    'a header of other columns': (SEARCH | {'qrels/test.tsv': None,
    'qrels/test.csv': 'query,document\nq1,d1\n'}, '',
        'test.csv, row 1 has the columns query, document; it needs query_id or query-id'),
    'a grade that the first row lacks': (SEARCH
    | {'qrels/test.tsv': None, 'qrels/test.jsonl': [dict(query_id='q1',
        corpus_id='d1'), *JUDGED]}, '', 'qrels/test.jsonl, row 1 has the columns query_id, corpus_id; it '
                                        'needs score'),
    'nothing relevant': (SEARCH | {'qrels/test.tsv': ['q1 0 d1 0']}, '', 'qrels/test.tsv has a relevant '
    'document'),
    'no judgements': (SEARCH | {'qrels/test.tsv': ''}, '', "row 1: '' is no judgement"),
    'judgements of another split': (SEARCH | {'qrels/test.tsv': None, 'qrels/dev.tsv': BEIR}, '',
        '{0} is no set: looked for corpus.jsonl, queries.jsonl and qrels/test.tsv together'),
    'other files': ({'readme.md': ''}, '', 'any of the formats .jsonl, .json, .csv, .tsv, .parquet; there is '
        'readme.md'),
    'no such file': ({}, 'nowhere.csv', '{0}/nowhere.csv does not exist'),
    'another format': ({'a.docx': 'PK'}, 'a.docx', 'a.docx is no file of rows; give one that ends in .jsonl'),
    'no rows': ({'a.csv': 'text,label\n'}, 'a.csv', 'a.csv has no rows'),
    'no JSON': ({'a.jsonl': [*GROUPS, '{"text": "x", ']}, 'a.jsonl',
        '''a.jsonl, row 21: '{"text": "x", \\n' is no JSON object; write one on each line'''),
    'a JSON array': ({'a.json': json.dumps(GROUPS)}, 'a.json', "row 1: '[{"),
    'no UTF-8': ({'a.csv': 'text,label\ncafé,1\n'.encode('latin-1')}, 'a.csv',
    "a.csv cannot be read ('utf-8'"),
    'cut': ({'a.jsonl.gz': gzip.compress(lines(*GROUPS).encode())[:-20]}, 'a.jsonl.gz', 'a.jsonl.gz cannot '
    'be read'),
    'a comma too many': ({'a.csv': 'text,label\na,b\nc,d,e\n'}, 'a.csv',
        "a.csv, row 2 has 3 fields, and the header 2: ['c', 'd', 'e']"),
    'an open mark': ({'a.csv': 'text,label\na,b\n"c,d\n'}, 'a.csv', 'a.csv, row 2: unexpected end of data'),
    'no known columns': ({'a.csv': 'a,b\n1,2\n'}, 'a.csv', 'a.csv has the columns a, b; it needs sentence1 '
    'and'),
    'a score that is no number': ({'a.jsonl': [*PAIRS, PAIRS[0] | dict(score='high')]}, 'a.jsonl',
        "a.jsonl, row 5: the score 'high' is no number"),
    'a third label': ({'a.jsonl': of([*PAIRS, PAIRS[0] | dict(label=2)], score='')}, 'a.jsonl',
        'a.jsonl, row 5: the label 2 is no label of a pair'),
    'all alike': ({'a.jsonl': [PAIRS[0], PAIRS[0]]}, 'a.jsonl', 'a.jsonl: each score is 0, so there is '
    'nothing'),
    'a label that is none': ({'a.jsonl': [*GROUPS, dict(text='x', label=None)]}, 'a.jsonl',
        'a.jsonl, row 21: the label None is no label'),
    'a label not learnt': ({'test.jsonl': [*GROUPS, dict(text='x', label='three')], 'train.jsonl': GROUPS},
        'test.jsonl', "test.jsonl, row 21: 'three' is a label that {0}/train.jsonl lacks"),
    'small groups': ({'a.jsonl': GROUPS[:-1]}, 'a.jsonl',
    'a has 19 texts of 2 groups; a set needs two groups'),
}
@pytest.mark.parametrize('files, named, says', REFUSED.values(), ids=REFUSED)
def test_refused(files, named, says, tmp_path):
    laid_out(tmp_path, {name: content for name, content in files.items() if content is not None})
    with pytest.raises(ValueError) as raised: read_task(tmp_path/named)
    assert says.replace('{0}', str(tmp_path)) in str(raised.value) and '\n' not in str(raised.value)

def test_either_data_or_three_files(tmp_path):
    for how, says in ((dict(), 'queries and documents and judgements missing'),
            (dict(queries='q', documents='d'), 'judgements missing'),
            (dict(data='a', queries='q'), 'both are given')):
        with pytest.raises(ValueError, match=says): read_task(**how)

# Many documents: the vectors once, and scores of few queries at a time.
def test_scores_in_parts_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    known = {f'text {i}': vector for i, vector in enumerate(rng.normal(size=(90, 8)))}
    def model(texts): return np.array([known[text] for text in texts])
    queries, documents = [*known][:20], [*known][20:]
    def scored(model): return np.array(list(_scores(model, queries, documents)))
    whole, words = scored(model), scored(BM25())
    for name, size in dict(_AT_ONCE=70*3, _REMEMBERED=5).items(): monkeypatch.setattr(kinds, name, size)
    asked = []
    def counted(texts): asked.append(len(texts)); return model(texts)
    np.testing.assert_allclose(scored(counted), whole, rtol=0, atol=1e-6)
    assert asked == [70, *[3]*6, 2] and (scored(BM25()) == words).all()
    np.testing.assert_allclose(scored(remembering(model)), whole, rtol=0, atol=1e-6)
    pile = kinds._pile(model, documents, True, size=32)
    np.testing.assert_allclose(pile, kinds.vectors(model, documents), rtol=0, atol=1e-7)

# The command
@pytest.fixture
def evaluated(tmp_path, monkeypatch, capsys):
    "What `gte_evaluate` prints, where neither a corpus nor a folder of public sets is to be had."
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('GTE_NB_EVAL_DATA', raising=False)
    def no_corpus(paths): raise AssertionError('the corpus was opened')
    monkeypatch.setattr(mining, 'open_corpus', no_corpus)
    def command(**how):
        try: gte_evaluate(['bm25', 'all-MiniLM-L6-v2'], out=str(tmp_path/'out'), **how)
        except SystemExit: pass
        return ''.join(capsys.readouterr())
    return command

def table(tmp_path): return pd.read_csv(tmp_path/'out'/'evaluation.csv').drop_duplicates(['model', 'task'])

def test_own_sets_beside_a_task_by_name(evaluated, tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.HUMAN, 'few', lambda: STS('few', list('abcd'), list('efgh'), np.arange(4)))
    laid_out(tmp_path/'mine', SEARCH)
    laid_out(tmp_path/'other/mine', SEARCH | {'queries.jsonl': texts('q1', 'q2', 'q3')})
    laid_out(tmp_path, {'pairs.jsonl': PAIRS})
    three = {role: str(tmp_path/'mine'/file) for role, file in dict(queries='queries.jsonl',
        documents='corpus.jsonl', judgements='qrels/test.tsv').items()}
    said = evaluated(data=[str(tmp_path/'mine'), str(tmp_path/'other/mine'), str(tmp_path/'pairs.jsonl')],
        tasks='few', **three)
    done = table(tmp_path)
    assert "left out, for example 'q3'" in said
    folders = [str(tmp_path/'mine'), str(tmp_path/'other/mine'), 'corpus']
    assert list(done[done.model == 'bm25'].task) == folders and done.metric.iloc[0] == 'nDCG@10'
    assert set(done[done.model != 'bm25'].task) >= {*folders, 'pairs', 'few'}

@pytest.mark.parametrize('how, says', [
    (dict(data=['nowhere']), 'error: nowhere does not exist'),
    (dict(data=['{0}', '{0}']), 'error: a set is named twice'),
    (dict(queries='q.jsonl'), 'documents and judgements missing'),
    (dict(data=['{0}'], benchmark='STSBenchmark'), 'error: a benchmark brings its own data'),
])
def test_what_the_command_refuses(how, says, evaluated, tmp_path):
    laid_out(tmp_path, SEARCH)
    how = {name: [part.format(tmp_path) for part in value] if isinstance(value, list) else value
        for name, value in how.items()}
    assert says in evaluated(**how)
