"Runs and data at the edge: each case ends in a sentence or goes on, and nothing that was finished is lost."
import json, os, shutil, signal
from dataclasses import replace
from pathlib import Path

import gte_nb.training.command, numpy as np, pandas, pytest, torch
from forked import ROWS, TINY, Place, Run, done, finetune, pretrain, refused, write
from gte_nb.training.checkpoints import checkpoint_steps
from gte_nb.utils import complain
from gte_nb.data.files import from_files
from gte_nb.model.embedder import Embedder
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.encoder import StaticEncoder
from gte_nb.data.batches import Batch
from gte_nb.training.triples import siblings
from gte_nb.training.checkpoints import finished_run, read_log, writable
from gte_nb.training.gauges import (draw_gauges, held_out_gauges, ranks_from_scores, retrieval_gauge,
    signatures,
    token_gauge)
from gte_nb.training.loop import Gauges, Loop, Options, Run as TrainingRun, Settings, train

@pytest.fixture
def place(tmp_path): return Place(tmp_path)

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "The folder of a run that nobody disturbs."
    place = Place(tmp_path_factory.mktemp('undisturbed'))
    done(place.start())
    return place

@pytest.fixture
def undisturbed(trained): return trained.weights

# a run is killed, and something happens before the same command

def nothing(place): pass

def cache_deleted(place): shutil.rmtree(place.cache)

def newest_damaged(place):
    file = place.out/'checkpoints'/f'{checkpoint_steps(place.out)[0]:09}'/'state.safetensors'
    file.write_bytes(file.read_bytes()[:-1])

def table_cut_short(place):
    for file in place.cache.glob('tokens/*query*/ids.npy'): file.write_bytes(file.read_bytes()[:-10])

@pytest.mark.parametrize('happens', [nothing, cache_deleted, newest_damaged, table_cut_short])
def test_the_same_command_ends_with_the_same_weights(place, undisturbed, happens):
    happens(place.killed())
    said = done(place.start())
    assert place.weights == undisturbed
    assert said.count('is damaged (') == (happens is newest_damaged), said

def test_a_damaged_checkpoint_is_named_once_and_then_gone(place, undisturbed):
    newest_damaged(place.killed(at=9))
    assert place.start(dies_at=9).wait()[1].count('is damaged (') == 1
    assert checkpoint_steps(place.out) == [8, 7, 6]
    assert 'is damaged (' not in done(place.start()) and place.weights == undisturbed

def test_all_checkpoints_damaged(place):
    place.killed(at=3)
    for file in place.out.glob('checkpoints/*/state.json'): file.write_text('')
    said = refused(place.start())
    assert 'all checkpoints in' in said and 'delete that folder' in said

def test_few_file_handles(place, undisturbed):
    assert 'allow more open files' in refused(place.start(handles=8))
    done(place.start(handles=64))
    assert place.weights == undisturbed

# full disks

@pytest.mark.parametrize('size, missing, what', [
    (500, 'corpus', 'make room (the cache is in'),
    (500, 'tokenizers', 'the vocabulary cannot be written to'),
    (100, 'tokens', 'make room (the cache is in'),
    (8_000, 'tokens', 'the checkpoint of step')])
def test_a_disk_that_is_full(place, trained, size, missing, what):
    place.rows = trained.rows                                              # its path names the corpus
    shutil.copytree(trained.cache, place.cache)
    shutil.rmtree(place.cache/missing)                                    # what has to be written again
    said = refused(place.start(files=size))
    assert what in said and 'File too large' in said and 'make room' in said, said
    done(place.start())
    assert place.weights == trained.weights

def test_a_disk_that_fills_up_later(place, undisturbed):
    before = checkpoint_steps(place.killed().out)
    assert f'goes on from step {before[0]}' in refused(place.start(files=8_000))
    assert checkpoint_steps(place.out) == before
    done(place.start())
    assert place.weights == undisturbed

# folders and files

def test_two_runs_into_one_folder(place, undisturbed):
    first = place.start(slow=0.05)
    first.until(lambda: checkpoint_steps(place.out))
    assert 'another process is training into' in refused(place.start())
    done(first)
    assert place.weights == undisturbed

@pytest.mark.parametrize('out', ['rows.jsonl', 'rows.jsonl/run', '/proc/run'])
def test_an_out_that_cannot_be_written(place, out):
    said = refused(place.start('--out', place.folder/out))
    assert 'cannot be written' in said and 'give another --out' in said
    assert not list(place.cache.glob('tokens/*'))                         # it is asked before the work

def test_processes_of_a_run_ask_at_once_whether_a_folder_can_be_written(tmp_path):
    def ask():
        for _ in range(2000): writable(tmp_path)
    for run in [Run(ask) for _ in range(3)]: done(run)

def test_a_finished_run_is_found_again(place):
    done(place.start())
    shutil.rmtree(place.cache)
    assert 'already finished' in done(place.start())
    assert 'steps 12 there, 13 here' in refused(place.start('--steps', 13))

def vocabulary(place): return json.loads((place.out/'tokenizer.json').read_text())['model']['vocab']

def test_a_file_that_has_changed(place):
    "The run is another one; who wants to go on all the same keeps its vocabulary."
    before = vocabulary(place.killed())
    write(place.rows, [*ROWS, dict(query='how to zip a zebra', document='def zip_zebra(x): return zip(x)')])
    said = refused(place.start())
    assert 'belongs to another run: corpus' in said and '--allow_changes' in said
    assert 'going on with changes: corpus' in done(place.start('--allow_changes'))
    assert vocabulary(place) == before and 'zebra' not in before

def test_a_changed_vocabulary_is_never_allowed(place):
    place.killed()
    (place.out/'tokenizer.json').unlink()
    write(place.rows, [dict(row, query=row['query'].upper() + ' quickly') for row in ROWS])
    said = refused(place.start('--allow_changes'))
    assert 'was trained with another tokenizer' in said and 'no setting' in said

def test_a_damaged_vocabulary(place, undisturbed):
    place.killed()
    (place.out/'tokenizer.json').write_text('{"version"')
    assert 'tokenizer.json is damaged' in refused(place.start())
    (place.out/'tokenizer.json').unlink()                                 # as the sentence says
    done(place.start())
    assert place.weights == undisturbed

# what is wrong with a command

@pytest.mark.parametrize('words, message', {
    '--recipe big': "recipe 'big' is none of laptop",
    '--steps 0': 'steps is 0',
    '--keep 0': 'keep is 0',
    '--learning_rate nan': 'learning rate nan',
    '--batch_size 5000': 'larger than every source',
    '--batch_size 1': 'a pair learns from the other pairs of its batch',
    '--hidden_size 0': 'hidden_size is 0',
    '--warmup 2': 'warmup is 2.0',
    '--token_dropout 1': 'token_dropout is 1.0',
    '--loss imporved': "loss is 'imporved'",
    '--init nowhere': 'nowhere holds no embedding model',
    '--start nobody/nothing': 'the hub does not give it',
    '--sources jokes': "source 'jokes' is not in",
    '--sources 2024': "source '2024' is not in",
    '--corpus nowhere.jsonl': 'nowhere.jsonl does not exist',
    '--tracker wandb': 'tracker wandb is not installed',
    '--timeout 0': 'timeout is 0.0'}.items())
def test_a_command_that_cannot_be_run(place, words, message):
    assert message in refused(place.start(*words.split(), HF_HUB_OFFLINE=1))

def test_another_recipe(place):
    done(place.start())
    assert 'temperature 0.05 there, 0.2 here' in refused(place.start('--temperature', 0.2))
    new = ('--recipe', 'laptop', '--init', place.out, '--out', place.folder/'new')
    assert 'holds a static encoder' in refused(place.start(*new))

@pytest.mark.parametrize('option, there', [
    (('--hidden_size', 32), 'hidden_size 16'), (('--layers', 2), 'layers 0'),
    (('--keep_layers', '0,2'), 'layers 0')])
def test_a_shape_that_the_model_to_start_from_does_not_have(place, trained, option, there):
    said = refused(place.start('--init', trained.out, '--out', place.folder/'new', *option))
    assert f'has {there}, and --init goes on with it as it is; leave {option[0]} out' in said

def test_help_names_the_real_folder_of_runs():
    def show(): # as in an installed package
        gte_nb.training.command.runs_folder = lambda: Path('/home/somebody/.cache/gte_nb/runs')
        gte_nb.training.command.gte_finetune(['--help'])
    said = done(Run(show, COLUMNS=300))
    assert 'default: /home/somebody/.cache/gte_nb/runs/RECIPE/stage2' in said and 'data/runs' not in said

# what a run says of its rows

def test_rows_for_validation_become_a_gauge(place):
    splits = ('validation', 'test', 'train', 'train')*8
    write(place.rows, [dict(row, split=split) for row, split in zip(ROWS, splits)])
    said = done(place.start('--gauge_every', 6, chart=True))
    assert (place.out/'run.png').read_bytes().startswith(b'\x89PNG')
    assert '8 validation rows of rows: not trained on, a gauge measures by them' in said
    assert '8 test rows of rows: not trained on, not used here' in said
    assert 'Retrieval on held-out rows (rows ' in said
    gauges = [line.split(',')[:2] for line in (place.out/'gauges.csv').read_text().splitlines()]
    assert gauges[1:] == [['0', 'rows'], ['6', 'rows'], ['12', 'rows']]
    assert finished_run(place.out)['pairs'] == 12*8

def test_few_rows_for_validation_are_named(place):
    write(place.rows, [dict(row, split='train' if i else 'validation') for i, row in enumerate(ROWS)])
    said = done(place.start('--gauge_every', 6))
    assert '1 validation row of rows: not trained on, not used here' in said

RANDOM, UNUSED = 'the negatives of rows are random, not hard', 'the negatives of rows are not used in stage 1'
HARD = [dict(row, negative=f'def no_{i}(x): pass') for i, row in enumerate(ROWS)]

@pytest.mark.parametrize('stage, rows, sentence', [
    (pretrain, ROWS, None), (pretrain, HARD, UNUSED),
    (finetune, ROWS, RANDOM), (finetune, HARD, None), (finetune, [*HARD[:-1], ROWS[-1]], None)])
def test_negatives_that_are_random_or_not_used(place, stage, rows, sentence):
    write(place.rows, rows)
    said = done(place.start(stage=stage))
    assert [text for text in (RANDOM, UNUSED) if text in said] == [sentence]*bool(sentence)

def test_a_last_batch_of_one_row_is_left_out(place):
    write(place.rows, [*ROWS, dict(query='how to zip a file', document='def zip_file(x): return zip(x)')])
    assert 'each pass leaves out 1 of 33 rows of rows, others each time' in done(place.start())
    assert {row['pairs'] for row in read_log(place.out/'log.csv')} == {8}

def test_several_files_and_a_name_of_digits(place):
    "Each is a source; those that are not named do not train."
    parts = {'2024.jsonl': ROWS[:20], 'b.jsonl': ROWS[9:20], 'c.jsonl': ROWS[20:]}
    first, *others = [write(place.folder/name, rows) for name, rows in parts.items()]
    more = ('--sources', '2024', '--batch_size', 20, '--out', place.out)
    said = done(pretrain([*TINY, '--corpus', first, '--corpus', *others, *more], GTE_NB_CACHE=place.cache))
    assert "('2024',)" in said and {row['pairs'] for row in read_log(place.out/'log.csv')} == {20}

def test_quotation_marks_as_plain_characters(place):
    "A file that is refused with marks that swallow rows is read without."
    place.rows, lines = place.folder/'rows.tsv', [f"{row['query']}\t{row['document']}\n" for row in ROWS]
    lines[3] = lines[3].replace('\t', '\t"')
    place.rows.write_text('query\tdocument\n' + ''.join(lines))
    assert "quoting='none'" in refused(place.start())
    done(place.start('--quoting', 'none'))
    assert finished_run(place.out)['pairs'] == 12*8

# `train` in one's own code

TEXTS = [text for row in ROWS for text in row.values()]

def static(size, hidden_size=16, more=()):
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*TEXTS, *more], size, special_tokens=False)
    return Embedder(StaticEncoder(size, hidden_size), tokenizer, 64)

def batches(embedder, dies_at=None):
    "step → eight rows."
    ids = embedder.tokenize(TEXTS)
    def batch_at(step):
        if step == dies_at: os.kill(os.getpid(), signal.SIGKILL)
        rows = np.random.default_rng(step).choice(len(ROWS), 8, replace=False)
        return Batch([ids[2*row] for row in rows], [ids[2*row + 1] for row in rows])
    return batch_at

def loop(folder, hidden_size=16, dies_at=None, **settings):
    "A run of `train`, in a fork."
    def work():
        embedder = static(200, hidden_size)
        how = dict(batch_at=batches(embedder, dies_at), steps=12, learning_rate=0.01, temperature=0.05,
            quiet=True)
        try: train(embedder, folder=folder, **how | settings)
        except ValueError as error: complain(error)
    return Run(work)

@pytest.mark.parametrize('change, message', [
    (dict(temperature=0.1), 'temperature 0.05 there, 0.1 here'),
    (dict(token_dropout=0.5), 'token_dropout 0.0 there, 0.5 here'),
    (dict(steps=0), 'steps is 0'),
    (dict(keep=0), 'keep is 0'),
    (dict(gauge_every=-1), 'gauge_every is -1'),
    (dict(learning_rate=float('nan')), 'learning rate nan'),
    (dict(learning_rate=-1), 'learning rate -1')])
def test_arguments_of_train(tmp_path, change, message):
    done(loop(tmp_path/'run'))
    assert message in refused(loop(tmp_path/('run' if 'there' in message else 'new'), **change))

@pytest.mark.parametrize('name, nearest', [('tempurature', 'temperature'),
    ('checkpoint_secs', 'checkpoint_seconds'),
    ('gauge', 'gauges'), ('number_of_epochs_to_train', 'embedder, batch_at, folder, steps')])
def test_an_argument_that_train_does_not_know(tmp_path, name, nearest):
    with pytest.raises(TypeError, match=f'train has no argument {name}; did you mean {nearest}'):
        train(None, None, tmp_path/'run', 12, 0.01, **{name: 1})
    assert not (tmp_path/'run').exists()

def test_help_of_train_tells_every_argument():
    for name in (*Settings.__dataclass_fields__, *Options.__dataclass_fields__, 'gradient', 'callbacks'):
        assert train.__doc__.count(f'\n    {name} (') == 1, name
    assert '**' not in train.__doc__

def test_callbacks_are_called_in_order(tmp_path):
    "Each at its four moments; the gauges measure before a step and at the end."
    def work():
        told, measured = [], []
        def gauge(embedder):
            measured.append(len(told))
            return np.zeros(4)
        class Listens:
            def at_begin(self, run): told.append('begin')
            def before_step(self, run): told.append(f'before {len(run.log)}')
            def after_step(self, run): told.append(f'after {len(run.log)}')
            def at_end(self, run): told.append('end')
        embedder = static(200)
        train(embedder, batches(embedder), tmp_path/'run', 2, 0.01, gauges=dict(a=gauge), gauge_every=1,
            callbacks=[Listens(), object()], quiet=True)
        assert told == ['begin', 'before 0', 'after 1', 'before 1', 'after 2', 'end'], told
        assert measured == [1, 3, 5]
    done(Run(work))

def test_a_run_by_hand(tmp_path):
    "Opened, taken some steps, checkpointed and left; another one goes on, and ends as `train` does."
    settings = Settings(12, 0.01, temperature=0.05)
    def run():
        embedder = static(200)
        gauges = Gauges(dict(a=lambda embedder: np.ones(4)))
        return TrainingRun(embedder, batches(embedder), tmp_path/'hand', settings, Options(quiet=True),
            callbacks=[gauges], about=dict(name='by hand'))
    def first():
        (left := run()).open()
        for _ in range(5): left.step()
        assert checkpoint_steps(tmp_path/'hand') == []
        left.checkpoint()
    def second():
        (goes_on := run()).open()
        assert len(goes_on.log) == 5 and [row['step'] for row in goes_on.measured] == [0, 2, 4]
        while len(goes_on.log) < 12: goes_on.step()
        goes_on.finish()
    def in_memory(): # the same steps without a folder
        embedder = static(200)
        Loop(embedder, batches(embedder), tmp_path/'none', settings).train()
        embedder.save(tmp_path/'memory')
        assert not (tmp_path/'none').exists()
    for work in (first, second, in_memory): done(Run(work))
    done(loop(tmp_path/'train'))
    weights = [(tmp_path/name/'model.safetensors').read_bytes() for name in ('hand', 'memory', 'train')]
    assert weights[0] == weights[1] == weights[2]
    assert checkpoint_steps(tmp_path/'hand') == [] and finished_run(tmp_path/'hand')['pairs'] == 12*8

@pytest.mark.parametrize('settings, message', [
    (dict(tracker='wandb'), 'tracker wandb is not installed'),
    (dict(learning_rate=1e30, steps=80), 'lower the learning rate'),
    (dict(batch_at=lambda step: Batch([], [])), 'step 0 of 12: the batch is empty')])
def test_what_goes_wrong_within_a_run(tmp_path, settings, message):
    assert message in refused(loop(tmp_path/'run', **settings))

def test_a_checkpoint_of_another_run(tmp_path):
    folder = tmp_path/'run'
    assert loop(folder, steps=100, dies_at=9, checkpoint_seconds=0).wait()[0] == -signal.SIGKILL
    assert 'steps 100 there, 12 here' in refused(loop(folder))
    assert 'of shape (200, 16), the model (200, 32)' in refused(loop(folder, steps=100, hidden_size=32))
    done(loop(folder, steps=13, allow_changes=True))
    assert len(read_log(folder/'log.csv')) == 13

# gauges

ZERO = (0., 0.)

@pytest.mark.parametrize('expects, curves, sentence', [ # gauge → (change, margin) at steps 0, 10, …
    ('rises', dict(a=[ZERO, (0.01, 0.02)]), 'has not risen after 10 steps: +0.010 [-0.010, +0.030]'),
    ('rises', dict(a=[ZERO, (-0.05, 0.02)]), 'has fallen after 10 steps'),
    ('rises', dict(a=[ZERO, (0.1, 0.02), (0.04, 0.02)]),
        'had risen by +0.100 [+0.080, +0.120] on average at step 10, and is at +0.040'),
    ('rises', dict(a=[ZERO, (0.1, 0.02), (-0.04, 0.02)]), 'transfer lost again'),
    # not so far below the peak that it could not be noise
    ('rises', dict(a=[ZERO, (0.1, 0.02), (0.08, 0.02)]), 'No failure signature 1'),
    # the intervals overlap, and the same queries are found less often than at the peak
    ('rises', dict(a=[ZERO, (0.1, 0.02), (0.07, 0.02)]), 'after 20: -0.030 [-0.053, -0.007] since then'),
    ('rises', dict(a=[ZERO, (0.06, 0.02*0.5**0.5)], b=[ZERO, (0., 0.02*0.5**0.5)]),
        'has risen after 10 steps, by +0.030 [+0.020, +0.040]'),
    ('stays', dict(a=[ZERO, (-0.05, 0.02)], b=[ZERO, (-0.01, 0.02)]),
        '1 of 2 tasks of stage 1 have fallen: a by -0.050'),
    ('stays', dict(a=[ZERO, (-0.05, 0.02)], b=[ZERO, (-0.01, 0.02)]), 'See nbs/book/06_gauges.ipynb.'),
    ('stays', dict(a=[ZERO, (-0.01, 0.02)]), 'No failure signature 2'),
    ('rises', dict(a=[ZERO]), 'No verdict yet'),
    ('learns', dict(a=[ZERO, (-0.05, 0.02)]), 'has fallen'),
    ('learns', dict(a=[ZERO, (0.01, 0.02)]), 'not changed beyond noise')])
def test_what_gauges_say(expects, curves, sentence):
    assert sentence in ' '.join(signatures(measured(**curves), dict.fromkeys(curves, expects)))

def measured(**curves):
    means = np.mean([[change for change, _ in curve] for curve in curves.values()], axis=0)
    rows = []
    for name, curve in curves.items():
        for i, (change, margin) in enumerate(curve):
            peak = int(means[:i + 1].argmax())
            away, margin_away = change - curve[peak][0], margin*(peak != i)
            rows.append(dict(step=10*i, gauge=name, score=0.5 + change, n=300, change=change,
                low=change - margin, high=change + margin, from_peak=away, peak_low=away - margin_away,
                peak_high=away + margin_away))
    return pandas.DataFrame(rows)

def test_the_best_measurement_survives_a_kill(tmp_path):
    "How far a gauge is from its peak is the same in a run that was killed behind the peak and goes on."
    def run(name, *means, **how):
        means = iter(means)
        def gauge(embedder): return np.float32(next(means)) + np.arange(4, dtype=np.float32)
        return loop(tmp_path/name, gauges=dict(a=gauge), gauge_every=4, **how)
    done(run('whole', 0.2, 0.6, 0.5, 0.4))
    assert run('killed', 0.2, 0.6, dies_at=7, checkpoint_seconds=0).wait()[0] == -signal.SIGKILL
    done(run('killed', 0.5, 0.4))
    tables = [pandas.read_csv(tmp_path/name/'gauges.csv') for name in ('whole', 'killed')]
    assert tables[0].equals(tables[1])
    np.testing.assert_allclose(tables[0]['from_peak'], [0, 0, -0.1, -0.2], atol=1e-6)

def test_gauges_of_three_kinds():
    table = measured(a=[ZERO, (0.05, 0.02)], b=[ZERO, (-0.01, 0.02)])
    assert ' '.join(signatures(table, dict(a='rises', b='stays'))).count('No failure signature') == 2
    risen = 'Retrieval on held-out rows (a 0.500 → 0.550) has risen after 10 steps: +0.050 [+0.030, +0.070].'
    assert signatures(table, dict(a='learns')) == [risen]

@pytest.mark.parametrize('make, message', [
    (lambda corpus: signatures(measured(a=[ZERO]), dict(c='rises')), 'no gauge c; it has: a'),
    (lambda corpus: signatures(measured(a=[ZERO]), dict(a='falls')), "not {'a': 'falls'}"),
    (lambda corpus: ranks_from_scores(np.full((2, 2), np.nan), np.array([0, 1])),
    'query 0 has the score nan'),
    (lambda corpus: token_gauge([np.array([1])]*40, [np.array([1])]*20), '40 queries and 20 documents'),
    (lambda corpus: retrieval_gauge(['a'], []), '1 queries and 0 documents'),
    (lambda corpus: held_out_gauges(corpus, ('rows',)), 'source rows has 0 different validation pairs'),
    (lambda corpus: held_out_gauges(corpus, ('nothing',)), "source 'nothing' is not in"),
    (lambda corpus: draw_gauges(corpus.folder), 'holds no gauges.csv')])
def test_gauges_that_cannot_be(place, make, message):
    def work():
        try: make(from_files(place.rows, place.folder/'corpus'))
        except ValueError as error: complain(error)
    assert message in refused(Run(work))

def test_gauges_of_each_source(place):
    write(place.rows, [dict(row, split='validation' if i % 2 else 'train') for i, row in enumerate(ROWS)])
    def work():
        assert [*held_out_gauges(from_files(place.rows, place.folder/'corpus'), ('rows',),
            rows=10)] == ['rows']
    done(Run(work))

@pytest.mark.parametrize('seconds, steps_drawn', [(0, 9), (60, 0)])
def test_a_run_that_was_stopped_is_drawn(tmp_path, seconds, steps_drawn):
    "With a checkpoint after each step that the next one has vouched for, and without one."
    gauges = dict(a=lambda embedder: np.zeros(4))
    assert loop(tmp_path, dies_at=10, checkpoint_seconds=seconds, gauges=gauges).wait()[0] == -signal.SIGKILL
    def work(): assert len(draw_gauges(tmp_path).axes[0].lines[0].get_xdata()) == steps_drawn
    done(Run(work))

# texts without a vector

def zeroed(place, trained, *tokens):
    "In a fork: a static model of the rows' vocabulary, in which some tokens have no vector."
    def work():
        embedder = Embedder.load(trained.out)
        for token in tokens: embedder.encoder.embedding.weight.data[embedder.tokenizer.token_to_id(token)] = 0
        embedder.save(place.folder/'zeroed')
    done(Run(work))
    return '--init', place.folder/'zeroed', '--out'

@pytest.mark.parametrize('stage', [pretrain, finetune])
def test_rows_without_a_vector_are_left_out_and_named(place, trained, stage):
    "Row 4 asks in unknown characters, to which a model may give the zero vector; row 6 has such a negative."
    model, out = zeroed(place, trained, '[UNK]'), place.folder/'left'
    rows = [dict(row) for row in ROWS]
    rows[3]['query'], rows[5]['negative'] = '☃ ☃', '☃'
    write(place.rows, rows)
    said = done(place.start(*model, out, '--batch_size', 32, '--token_dropout', 0, '--steps', 4, stage=stage))
    assert 'step 0 of 4: row 4 of rows.jsonl is left out, since none of its tokens has a vector' in said
    assert '1 rows had no token with a vector and were left out: row 4 of rows.jsonl' in said
    assert [row['pairs'] for row in read_log(out/'log.csv')] == [31]*4 and finished_run(out)['left_out'] == 1

def test_dropped_tokens_stop_no_run(place, trained):
    "Token dropout can leave a text with nothing but tokens that have no vector, each time at the same step."
    model, out = zeroed(place, trained, 'how', 'to', 'a', '[UNK]'), place.folder/'thinned'
    more = (*model, out, '--token_dropout', 0.8)
    done(place.start(*more))
    log, weights = read_log(out/'log.csv'), (out/'model.safetensors').read_bytes()
    assert len(log) == 12 and not any(row['skipped'] for row in log) and min(row['pairs'] for row in log) < 8

    shutil.rmtree(out)                                              # killed and gone on with, it is the same
    assert place.start(*more, dies_at=7).wait()[0] == -signal.SIGKILL
    done(place.start(*more))
    assert (out/'model.safetensors').read_bytes() == weights

def test_a_run_of_nothing_but_zero_vectors_stops(place, trained):
    model = zeroed(place, trained, '[UNK]')
    write(place.rows, [dict(query='☃'*i, document=f'☂ {"☃"*i}') for i in range(1, 33)])
    said = refused(place.start(*model, place.folder/'none'))
    assert '10 steps in a row were skipped' in said and 'no pair of the batch has a vector' in said

# negatives

def neighbours(rows):
    pairs = pandas.DataFrame(rows, columns=['query', 'document', 'module'])
    return pairs, [siblings(pairs, seed).tolist() for seed in range(20)]

def test_a_random_negative_is_not_another_right_answer():
    asked = [(query, mark, i) for i in range(6) for query in ('red', 'Blue') for mark in ('', '!', '?')]
    pairs, drawn = neighbours([(query + mark, f'{query} answer {i}', 'topic') for query, mark, i in asked])
    for other in drawn:
        assert -1 not in other
        answers = pairs['document'].iloc[other]
        assert all(query[:2] != answer[:2] for query, answer in zip(pairs['query'], answers))
    assert len({*map(tuple, drawn)}) == 20

@pytest.mark.parametrize('rows, others', [
    ([('red', f'answer {i}', 'red') for i in range(60)], [-1]*60),
    ([('a', 'b', 'm'), ('B', 'A.', 'm')], [-1, -1]),                # a link read backwards; the query itself
    ([('a', 'b', 'm'), ('c', 'd', 'm'), ('e', 'f', 'alone')], [1, 0, -1])])
def test_where_no_neighbour_is_wrong_there_is_no_negative(rows, others):
    assert all(other == others for other in neighbours(rows)[1])

def test_other_draws_stay_as_they_are():
    "Where no neighbour is right, the draw is that of the plain formula."
    pairs, drawn = neighbours([(f'query {i}', f'document {i}', f'module {i % 3}') for i in range(30)])
    for seed, other in enumerate(drawn):
        rng, plain = np.random.default_rng(seed), np.full(30, -1)
        for rows in pairs.groupby('module').indices.values():
            plain[rows] = rows[(np.arange(10) + rng.integers(1, 10, size=10)) % 10]
        assert other == plain.tolist()

def test_all_negatives_of_a_row_are_trained_on(place):
    "Rows bring none, one or three; a batch has as many places as its richest row."
    numbers = (0, 1, 1, 3)*8
    rows = [dict(row, **{f'negative_{k + 1}': f'wrong {k} of {i}' for k in range(number)})
            for i, (row, number) in enumerate(zip(ROWS, numbers))]
    write(place.rows, rows)
    def look():
        corpus = from_files(place.rows, place.folder/'corpus')
        embedder = static(400, more=[f'wrong {k} of {i}' for k in range(3) for i in range(32)])
        recipe = replace(gte_nb.training.recipes.RECIPES['laptop-scratch'][1], sources=('rows',),
            batch_size=4)
        batch_at = gte_nb.training.triples.triple_batches(embedder, corpus, recipe)
        def text(ids): return embedder.tokenizer.decode(ids.tolist())
        for step in range(8):
            batch = batch_at(step)
            asked = [[row['query'] for row in ROWS].index(text(query)) for query in batch.queries]
            k = len(batch.negatives) // 4
            assert k == max(1, *(numbers[row] for row in asked))
            for at, row in enumerate(asked):
                own = [text(ids) for ids in batch.negatives[at*k:(at + 1)*k] if len(ids)]
                assert own == [value for name, value in rows[row].items() if name.startswith('negative')]
                assert batch.name(at) == f'row {row + 1} of rows.jsonl'
    done(Run(look, GTE_NB_CACHE=place.cache))
    done(place.start('--batch_size', 4, stage=finetune))
