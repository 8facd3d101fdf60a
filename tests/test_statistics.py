"""The one estimator, what claims make of it, how rows are kept, and what may be recorded."""
import fcntl, importlib.util, json, shutil, subprocess, sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t as student, ttest_1samp

from gte_nb.experiments import runner
from gte_nb.utils import data_folder
from gte_nb.experiments.runner import (COLUMNS, cell_rows, check_prediction, experiment_rows, find_experiment,
    joined, lines_of, pack, recorded_rows, run_experiment, whole_cells)
from gte_nb.experiments.claims import (MARGIN, Claim, Judgement, all_claims, clustered, clusters,
    standing)
from gte_nb.evaluation.intervals import Estimate, holm, interval, together, two_way

RESULTS = data_folder()/'results'
ROOT = RESULTS.parent.parent

# --- the estimator

def drawn(rng, seed, query, rest, s=10, q=100):
    "Differences with a mean of 0 and given standard deviations."
    return rng.normal(0, seed, (s, 1)) + rng.normal(0, query, (1, q)) + rng.normal(0, rest, (s, q))

@pytest.mark.parametrize('seeds', [3, 10])
# seeds, queries, rest, both large
@pytest.mark.parametrize('deviations', [(0.1, 0.1, 0.3), (0.01, 1, 0.3), (0.01, 0.05, 1), (0.1, 1, 0.3)])
def test_interval_misses_as_often_as_it_says(deviations, seeds):
    rng = np.random.default_rng(0)
    missed = np.mean([not low <= 0 <= high for _, low, high in (interval(drawn(rng, *deviations, seeds))
        for _ in range(600))])
    assert 0.01 < missed < 0.09

def test_one_seed_is_the_t_interval_over_queries():
    values = np.random.default_rng(0).normal(0.3, 1, 50)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(values), (values.mean(), low, high), rtol=1e-9)

def test_one_query_is_the_t_interval_over_seeds_and_one_number_tells_nothing():
    values = np.random.default_rng(0).normal(0.3, 1, (10, 1))
    low, high = ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(values), (values.mean(), low, high), rtol=1e-9)
    assert interval([0.5]) == (0.5, -np.inf, np.inf)

def test_equal_queries_are_the_t_interval_over_seeds():
    by_seed = np.random.default_rng(0).normal(0.3, 1, 10)
    low, high = ttest_1samp(by_seed, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(np.tile(by_seed[:, None], 400)), (by_seed.mean(), low, high),
        rtol=1e-6)

def test_two_way_against_sums_of_squares_by_hand():
    values = drawn(np.random.default_rng(3), 0.5, 0.7, 0.4, 5, 30)
    s, q = values.shape
    total, of_seeds = ((values - values.mean())**2).sum(), q*((values.mean(1) - values.mean())**2).sum()
    of_queries = s*((values.mean(0) - values.mean())**2).sum()
    squares = np.array([of_seeds/(s - 1), of_queries/(q - 1),
        (total - of_seeds - of_queries)/((s - 1)*(q - 1))])
    signed, freedom = squares * (1, 1, -1), np.array([s - 1, q - 1, (s - 1)*(q - 1)])
    found = two_way(values)
    np.testing.assert_allclose(found.error, (signed.sum()/(s*q))**0.5, rtol=1e-9)
    np.testing.assert_allclose(found.freedom, signed.sum()**2 / (signed**2/freedom).sum(), rtol=1e-9)

def test_intervals_of_many_comparisons_hold_together():
    rng = np.random.default_rng(0)
    def all_hold():
        base = drawn(rng, 0.1, 0.3, 0.3, 10, 60)
        found = together({i: drawn(rng, 0.1, 0.3, 0.3, 10, 60) - base for i in range(16)})
        return all(low <= 0 <= high for _, low, high in found.values())
    assert np.mean([all_hold() for _ in range(200)]) > 0.92

@pytest.mark.parametrize('p, corrected', [
    ([0.04, 0.001, 0.02], [0.04, 0.003, 0.04]), ([0.03, 0.001, 0.04], [0.06, 0.003, 0.06]),
    ([0.9, 0.8], [1, 1]), ([0.01], [0.01])])
def test_holm(p, corrected): np.testing.assert_allclose(holm(p), corrected)

def test_smallest_difference_is_seen_in_80_of_100():
    rng, seen = np.random.default_rng(0), []
    true = Estimate(0., (0.1**2/10 + 0.3**2/100 + 0.3**2/1000)**0.5, 40.)
    for _ in range(600): seen.append(interval(true.smallest() + drawn(rng, 0.1, 0.3, 0.3))[1] > 0)
    assert 0.7 < np.mean(seen) < 0.9

def test_clusters_keep_the_mean_and_widen_what_is_alike():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 15)
    alike = rng.normal(0, 1, 20)[labels] + rng.normal(0, 0.1, (10, 300))
    grouped = clustered(alike, labels)
    np.testing.assert_allclose(grouped.mean(1), alike.mean(1))
    assert two_way(grouped).error > 3 * two_way(alike).error
    apart = rng.normal(0, 1, (1, 300))
    # each a cluster of its own
    np.testing.assert_allclose(two_way(clustered(apart, np.arange(300))).error, two_way(apart).error)

def test_each_task_counts_once():
    tasks = {'few': np.full((2, 10), 1.), 'many': np.zeros((2, 990))}
    np.testing.assert_allclose(joined(tasks).mean(1), 0.5)

# --- verdicts

def estimate(mean, error=0.001, seeds=10): return Estimate(mean, error, 30., seeds)

@pytest.mark.parametrize('estimates, verdict', [
    ([estimate(0.02)], 'holds'), ([estimate(-0.02)], 'does not hold'),
    ([estimate(0.0005)], 'equivalent within ±0.5'),
    ([estimate(0.004)], 'holds'), ([estimate(0.004, 0.003)], 'cannot tell'),
    ([estimate(0.02, seeds=2)], 'cannot tell'),
    ([estimate(0.02), estimate(0.001, 0.002)], 'cannot tell'),              # all parts must hold
    # each at 95%: no correction for all
    ([estimate(0.0021), estimate(0.0021)], 'holds'),
    # any of several: corrected
    ([estimate(-0.0021)], 'does not hold'), ([estimate(-0.0021), estimate(0.02)], 'cannot tell')])
def test_verdict(estimates, verdict): assert Judgement(estimates).verdict == verdict

def test_verdict_agrees_with_the_interval():
    for mean in np.linspace(-0.01, 0.01, 41):
        one = estimate(mean)
        _, low, high = one.interval()
        expected = ('holds' if low > 0 else 'does not hold' if high < 0
                    else 'equivalent within ±0.5' if -MARGIN < low and high < MARGIN else 'cannot tell')
        assert Judgement([one]).verdict == expected

def test_a_verdict_that_just_holds_does_not_stand_among_many():
    just = Judgement([estimate(0.0022)])
    assert just.verdict == 'holds' and standing([just]) == [True]
    assert standing([just] + [Judgement([estimate(0.001, 0.005)])]*20) == [False]*21
    assert standing([Judgement([estimate(0.02)])] + [Judgement([estimate(0.001, 0.005)])]*20)[0]

def test_other_tasks_are_a_sample_of_their_own():
    noise = np.random.default_rng(0).normal(0, 0.05, (10, 200))
    claim = Claim('uneven', dict(a={f'task {i}': noise + 0.04*i for i in range(5)}))
    means = np.array([0.04*i for i in range(5)]) + noise.mean()
    np.testing.assert_allclose(claim.other['a'].mean, means.mean())
    np.testing.assert_allclose(claim.other['a'].error, means.std(ddof=1)/5**0.5, rtol=0.02)
    assert claim.verdict == 'holds' and 'On other tasks: ' in claim.told()
    assert Claim('two', dict(a={'x': noise, 'y': noise})).other == {}
    assert Claim('small', dict(a=noise), untested='too small').verdict == 'not tested'

def test_clusters_are_those_of_the_corpus():
    "A task has other queries in another version of the corpus, and so other clusters."
    recorded, values = clusters(), np.random.default_rng(0).normal(0, 1, (3, 300))
    first, second, *_ = (key for key in recorded if key[1:] == ('docstring_code', 300))
    assert recorded[first] != recorded[second] and first[0] != second[0]
    (one, *_), (other, *_) = first, second
    found = {corpus: Claim('one task', dict(a=dict(docstring_code=values)), corpus=corpus).other
        for corpus in (one, other, 'another')}
    assert found['another'] == {} and found[one]['a'].error != found[other]['a'].error

def test_every_claim_against_an_independent_recomputation():
    "No verdict of the board rests on a slip of the estimator: once more, written differently."
    def recomputed(part):
        tasks = list(part.values()) if isinstance(part, dict) else [part]
        values = np.hstack([task / task.shape[1] for task in tasks]) * sum(task.shape[1]
            for task in tasks) / len(tasks)
        s, q = values.shape
        seeds, queries = values - values.mean(0), values - values.mean(1, keepdims=True)
        rest = ((seeds - seeds.mean(1, keepdims=True))**2).sum() / ((s - 1)*(q - 1))
        of_seeds, of_queries = q*values.mean(1).var(ddof=1), s*queries.mean(0).var(ddof=1)
        total = max(of_seeds, rest) + max(of_queries, rest) - rest
        freedom = total**2 / sum(square**2/f for square, f in ((of_seeds, s - 1), (of_queries, q - 1),
            (rest, (s - 1)*(q - 1))))
        return values.mean(), (total/(s*q))**0.5, max(1, freedom)
    def ends_of(mean, error, freedom):
        margin = student.ppf(0.975, freedom) * error
        return mean, mean - margin, mean + margin
    claims, checked, elsewhere = all_claims(), 0, 0
    for _, claim in claims:
        for name, part in claim.parts.items():
            if isinstance(part, tuple): continue
            np.testing.assert_allclose(claim.found[name], ends_of(*recomputed(part)), rtol=1e-6, atol=1e-9,
                err_msg=claim.paper)
            checked += 1
            if not (claim.other and isinstance(part, dict) and len(part) > 2): continue
            means = np.stack([values.mean(1) for values in part.values()])            # tasks are the sample
            (_, here, more), (mean, error, freedom) = recomputed(part), recomputed(means.T)
            np.testing.assert_allclose(claim.other[name].interval(), ends_of(mean, max(here, error),
                min(more, freedom)), rtol=1e-6, atol=1e-9, err_msg=claim.paper)
            elsewhere += 1
        ends = list(claim.found.values())
        if claim.verdict == 'holds': assert all(low > 0 for _, low, _ in ends)
        if claim.verdict == 'does not hold': assert any(high < 0 for *_, high in ends)
        if claim.verdict.startswith('equivalent'):
            assert all(-MARGIN < low and high < MARGIN for _, low, high in ends)
        if claim.verdict == 'cannot tell': # two seeds decide nothing
            fewest = min(part.seeds for part in claim.own.values())
            assert fewest < 3 or not all(low > 0 for _, low, _ in ends)
    assert checked > 25 and elsewhere > 15 and sum(not claim.added for _, claim in claims) >= 20

# --- rows

def cell(arm, seed=0):
    found = [dict(step=1, metric='MRR@10', value=0.5, pairs=3,
        items=[np.array([1, 0.5, 0, 1/3]), np.array([1/7])], made=dict(recipe='r')),
             dict(step=1, metric='kappa', value=0.1, items=[np.array([-0.25, 0.12346])]),
             dict(step=1, metric='loss', value=2.)]
    return cell_rows('kept', arm, seed, found, 1., 'none')

def same(a, b):
    bare = ['items', 'pairs']
    assert a.drop(columns=bare).equals(b.drop(columns=bare)) and a['pairs'].fillna(-1).tolist() == b[
        'pairs'].fillna(-1).tolist()
    for x, y in zip(a['items'], b['items'], strict=True):
        assert [part.tolist() for part in x] == [part.tolist() for part in y]

def test_scores_are_the_same_in_csv_and_in_parquet(tmp_path):
    file = tmp_path/'kept.csv'
    file.write_bytes(lines_of(cell('a'), True) + lines_of(cell('b'), False))
    before, shared = experiment_rows(file), ('command', 'versions', 'hardware', 'date')
    assert [part.tolist() for part in before['items'][1]] == [[-0.25, 0.12346]]
    for row, written in zip(whole_cells(file)[0], cell('a') + cell('b'), strict=True):
        assert [row[name] for name in shared] == [written[name] for name in shared]
    assert file.read_bytes().count(cell('a')[0]['versions'].encode()) == 2              # once in a cell
    pack(file)
    assert not any(row['items'] for row in whole_cells(file)[0])
    same(experiment_rows(file), before)
    with open(file, 'ab') as out: out.write(lines_of(cell('c'), False))
    after = experiment_rows(file)
    same(after.head(len(before)), before)
    pack(file)
    same(experiment_rows(file), after)
    assert before['items'][0][0].tolist() == [1, 0.5, 0, 1/3] and before['items'][1][0].tolist() == [-0.25,
        0.12346]

@pytest.mark.parametrize('renamed', [0, 1])
def test_a_kill_while_packing_loses_nothing(tmp_path, renamed):
    "In a process that ends at once when it is about to rename its first or second file."
    file = tmp_path/'kept.csv'
    file.write_bytes(lines_of(cell('a'), True) + lines_of(cell('b'), False))
    before = experiment_rows(file)
    code = f'''if True:
        import os, pathlib, signal
        from gte_nb.experiments.runner import pack
        replace, left = os.replace, {renamed}
        def dying(*names):
            global left
            if not left: os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            replace(*names)
        os.replace = dying
        pack(pathlib.Path({str(file)!r}))'''
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    same(experiment_rows(file), before)
    pack(file)
    same(experiment_rows(file), before)

OLD = '80eef00331f7c6d7'                       # the corpus of rows that are older than the column `made`

def recorded():
    for file in sorted(RESULTS.glob('*.csv')):
        if file.read_text(encoding='utf-8').startswith('experiment,'): yield pytest.param(file, id=file.stem)

@pytest.mark.parametrize('file', recorded())
def test_recorded_rows_are_whole_give_their_means_and_say_how_they_were_made(file):
    rows, end = whole_cells(file)
    assert end == file.stat().st_size and not any(row['items'] for row in rows)
    table = experiment_rows(file)
    assert tuple(table.columns) == COLUMNS and not table.duplicated(['arm', 'seed', 'step', 'metric',
        'corpus']).any()
    for row in table.itertuples():
        if len(row.items):
            assert abs(np.mean([part.mean() for part in row.items]) - row.value) < 1e-3, (row.arm, row.metric)
    made = {}
    for row in rows:
        made.setdefault((row['arm'], row['seed'], row['corpus']), {}).update(json.loads(row['made'] or '{}'))
    for cell, how in made.items():
        if cell[2] == OLD: continue
        assert how.get('commit', 'none') != 'none', cell
        # a race of speed has a recipe, and no model is kept of it
        assert 'recipe' not in how or file.stem == 'speed' or ({'model', 'weights'} & how.keys()
            and {'exams', 'tasks'} & how.keys()), cell

def test_the_repository_stays_small():
    "All of it below 30 MB, as far as files are tracked; in a copy without git, the results."
    tracked = runner._git(ROOT, 'ls-files', '-z') or ''
    files = [ROOT/name for name in tracked.split('\0') if name] or [*RESULTS.iterdir()]
    assert sum(file.stat().st_size for file in files if file.exists()) < 30e6

def test_a_row_says_how_it_was_made():
    first, *others = cell('a')
    made = json.loads(first['made'])
    assert {'commit', 'clean', 'instructions', 'blas',
        'recipe'} <= made.keys() and not any(row['made'] for row in others)
    assert first['versions'] and first['hardware'] and first['command']

# --- what is no experiment

@pytest.mark.parametrize('name, text, problem', [
    ('sped', None, "no experiment is called 'sped'; there are: "), ('no.py', None, 'does not exist'),
    ('speed.py', '', 'rename your file'), ('half.py', 'ARMS = ()', 'lacks run')])
def test_what_is_no_experiment(tmp_path, name, text, problem):
    if text is not None: (tmp_path/name).write_text(text)
    with pytest.raises(ValueError, match=problem):
        find_experiment(str(tmp_path/name) if name.endswith('.py') else name)

STUDIED = SimpleNamespace(__name__='studied', __doc__='Is it so?', ARMS=('vanilla', 'improved'),
    run=lambda arm, seed: [dict(step=0, metric='m', value=1.)], fingerprint=lambda tiny: 'none')

@pytest.mark.parametrize('how, problem', [
    (dict(seeds=0), '0 seeds'),
    (dict(arms=['improve']), 'studied has no arm improve; it has: vanilla, improved')])
def test_what_cannot_be_run(tmp_path, how, problem):
    with pytest.raises(ValueError, match=problem): run_experiment(STUDIED, tmp_path/'rows.csv', **how)

def test_one_command_writes_a_file_of_rows(tmp_path):
    with open(tmp_path/'rows.csv', 'ab') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match='another gte_experiment is writing'):
            run_experiment(STUDIED, tmp_path/'rows.csv')

def test_other_files_are_no_rows(tmp_path):
    (tmp_path/'other.csv').write_text('import pandas\n')
    with pytest.raises(ValueError, match='is no file of an experiment'): whole_cells(tmp_path/'other.csv')
    with pytest.raises(FileNotFoundError, match='gte_experiment never --record'): recorded_rows('never')

# --- predictions

STUDY = ('"Is it so?"\nARMS = ("a",)\n{said}\ndef run(arm, seed): return [dict(step=0, metric="m", '
         'value=1.)]\n')

def git(folder, *words):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b.invalid', '-c', 'commit.gpgsign=false']
    subprocess.run(['git', *who, *words], cwd=folder, check=True, capture_output=True)

def study_in(folder, said):
    (folder/'own_study.py').write_text(STUDY.format(said=said))
    spec = importlib.util.spec_from_file_location('own_study', folder/'own_study.py')
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    study.fingerprint = lambda tiny: 'none'
    return study

@pytest.mark.skipif(not shutil.which('git'), reason='git is not installed')
@pytest.mark.parametrize('said, commit, then, problem', [
    ('', True, None, 'says nothing of a prediction'), ('# predicted: yes', False, None, 'is not committed'),
    ('# predicted: yes', True, '# predicted: no', 'is not committed as it stands'),
    ('# predicted: yes', True, None, None)])
def test_a_row_is_recorded_only_after_its_prediction(tmp_path, said, commit, then, problem):
    git(tmp_path, 'init')
    study = study_in(tmp_path, said)
    if commit: git(tmp_path, 'add', '.'); git(tmp_path, 'commit', '-m', 'prediction')
    if then: study = study_in(tmp_path, then)
    file = tmp_path/'rows.csv'
    if problem:
        with pytest.raises(ValueError, match=problem): run_experiment(study, file, record=True)
        assert not file.exists()
        # rows of one's own need no prediction
        run_experiment(study, file)
    else: assert run_experiment(study, file, record=True) == []
    assert len(whole_cells(file)[0]) == 1

def test_without_a_repository_a_row_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, '_git', lambda *_: None)
    check_prediction(study_in(tmp_path, '# predicted: yes'))
    runner.code_version.cache_clear()
    assert runner.code_version() == dict(commit='none', clean=False)
    runner.code_version.cache_clear()

@pytest.mark.parametrize('path', sorted((data_folder().parent/'nbs'/'experiments').glob('*.ipynb')),
    ids=lambda path: path.stem)
def test_every_experiment_states_a_prediction(path):
    assert 'predict' in path.read_text(encoding='utf-8').lower()
