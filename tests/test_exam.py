"What the exam refuses: a part with a task missing, and the sealed part before its time."
import numpy as np, pandas as pd, pytest

from gte_nb.evaluation import exam as module
from gte_nb.evaluation.exam import OPEN, SEALED, TYPES, exam_tasks, over_types
from gte_nb.evaluation.intervals import two_way
from gte_nb.experiments.studies import exam, exam_sealed

@pytest.fixture(autouse=True)
def _nothing_known():
    for known in (module._local, module._npm): known.cache_clear()

def silent(*_): raise OSError('no answer')

@pytest.mark.parametrize('name, sealed, word', [
    ('MRPC', False, 'GTE_NB_EVAL_DATA'), ('STS benchmark: forums', False, 'GTE_NB_EVAL_DATA'),
    ('emoji: name → group', True, 'unicode-emoji-json 0.9.0 cannot be fetched from npm (no answer)'),
    ('CWE: parent and child', True, 'cwe-sdk')])
def test_an_exam_without_a_task_is_another_exam(name, sealed, word, monkeypatch):
    monkeypatch.delenv('GTE_NB_EVAL_DATA', raising=False)
    monkeypatch.setattr(module, 'npm_tarball', silent)
    with pytest.raises(ValueError, match='the exam lacks') as error: exam_tasks(None, sealed, (name,))
    assert name in str(error.value) and word in str(error.value)

@pytest.mark.parametrize('arm, recorded, refused', [
    ('stage 1', [], True), ('stage 1', [('stage 1', 0, 'other corpus')], True),
    ('stage 1', [('stage 1', 1, 'ours'), ('untrained', 0, 'ours')], True),
    ('stage 1', [('stage 1', 0, 'ours')], False)])
def test_sealed_until_the_open_part_of_a_cell_is_recorded(arm, recorded, refused, monkeypatch):
    rows = exam_sealed.pd.DataFrame(recorded, columns=['arm', 'seed', 'corpus'])
    def found(name):
        assert name == 'exam'
        if rows.empty: raise FileNotFoundError
        return rows
    monkeypatch.setattr(exam_sealed, 'recorded_rows', found)
    monkeypatch.setattr(exam_sealed, 'project_corpus', lambda: type('', (), dict(fingerprint='ours')))
    monkeypatch.setattr(exam, 'model_of', lambda *_: ('a model', 'how'))
    monkeypatch.setattr(exam, 'tasks_of', lambda sealed: sealed)
    monkeypatch.setattr(exam, 'examined', lambda *arguments: [*arguments])
    if not refused: assert exam_sealed.run(arm, 0) == ['a model', True, 'how']
    else:
        with pytest.raises(ValueError, match='opened last'): exam_sealed.run(arm, 0)

def test_no_miniature_of_a_seal():
    with pytest.raises(ValueError, match='no miniature'): exam_sealed.run('untrained', 0, tiny=True)

def test_the_mean_over_types_and_tasks_without_a_rival():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(3, 4)) for name in TYPES}
    kinds = [[values[name].mean() for name in TYPES if TYPES[name] == kind] for kind in set(TYPES.values())]
    assert np.isclose(two_way(over_types(values)).mean, np.mean([np.mean(kind) for kind in kinds]))
    assert np.allclose(over_types({name: np.full(5, 2.) for name in OPEN}), 2)

def test_tags_and_links():
    tags = {f'text {i}': {f'tag {i % 3}', f'tag {i % 7}'} for i in range(200)}
    task = module._tagged('tags', tags)
    for query, right, candidates in zip(task.queries, task.right, task.candidates):
        assert all((query in tags[task.documents[d]]) == (d in right) for d in candidates)
        assert len(candidates) == 50 and len(right) == 5
    links = [(f'text {i}', f'text {i + 1}') for i in range(50)]
    pairs = module._linked('links', links, lambda rng: tuple(f'text {i}' for i in rng.integers(51, size=2)))
    strangers = {frozenset(pair) for pair, label in zip(zip(pairs.sentences1, pairs.sentences2), pairs.labels)
        if not label}
    assert strangers.isdisjoint(map(frozenset, links)) and len(strangers) > 40 and sum(pairs.labels) == 50

def test_no_work_is_open_and_sealed():
    works = [{(entry.package, entry.author) for entry in part.values()} for part in (OPEN, SEALED)]
    assert works[0].isdisjoint(works[1])

def test_arms_are_paired_by_seed():
    "Not by place; and an arm with one seed of several is not taken for one in which nothing is random."
    def rows(**arms): # arm → {seed: score}
        return pd.DataFrame([dict(arm=arm.replace('_', ' '), metric='SimLex-999', seed=seed,
            items=[np.full(3, score)]) for arm, scores in arms.items() for seed, score in scores.items()])
    def apart(theirs, **arms):
        return exam.differences(rows(**arms), 'stage 1', theirs, ('SimLex-999',))['SimLex-999'][:, 0].tolist()
    several = {0: 1., 1: 2., 2: 4.}
    assert apart('vanilla', stage_1=several, vanilla={2: 1., 1: 0.}) == [2., 3.]
    assert apart('vanilla', stage_1=several, vanilla={0: 1.}) == [0.]
    assert apart('all-MiniLM-L6-v2', stage_1=several, **{'all-MiniLM-L6-v2': {0: 1.}}) == [0., 1., 3.]
    with pytest.raises(ValueError, match='stage 1 and vanilla have no seed in common'):
        apart('vanilla', stage_1=several, vanilla={7: 1.})
