"Runs and data at the edge: each case ends in a sentence or goes on, and nothing that was finished is lost."
import json, os, shutil, signal
from dataclasses import replace
from pathlib import Path

import gte_nb.stages, numpy as np, pandas, pytest, torch
from forked import ROWS, Place, Run, done, finetune, pretrain, refused, write
from gte_nb.checkpoints import checkpoint_steps
from gte_nb.corpus import complain, from_files
from gte_nb.embedder import Embedder, train_tokenizer
from gte_nb.encoder import StaticEncoder
from gte_nb.gradient_cache import Batch
from gte_nb.stages import siblings
from gte_nb.training import finished_run, read_log, train

@pytest.fixture
def place(tmp_path): return Place(tmp_path)

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The weights of a run that nobody disturbs."
    place = Place(tmp_path_factory.mktemp('undisturbed'))
    done(place.start())
    return place.weights

# a run is killed, and something happens before the same command

def cache_deleted(place): shutil.rmtree(place.cache)

def newest_damaged(place):
    file = place.out/'checkpoints'/f'{checkpoint_steps(place.out)[0]:09}'/'state.safetensors'
    file.write_bytes(file.read_bytes()[:-1])

def table_cut_short(place):
    for file in place.cache.glob('tokens/*query*/ids.npy'): file.write_bytes(file.read_bytes()[:-10])

@pytest.mark.parametrize('happens', [cache_deleted, newest_damaged, table_cut_short, lambda place: None])
def test_the_same_command_ends_with_the_same_weights(place, undisturbed, happens):
    happens(place.killed())
    said = done(place.start())
    assert place.weights == undisturbed
    assert said.count('is damaged (') == (happens is newest_damaged), said

def test_a_damaged_checkpoint_is_named_once_and_then_gone(place, undisturbed):
    newest_damaged(place.killed(at=9))
    assert place.start(dies_at=9).wait()[1].count('is damaged (') == 1 and checkpoint_steps(place.out) == [8, 7, 6]
    assert 'is damaged (' not in done(place.start()) and place.weights == undisturbed

def test_all_checkpoints_damaged(place):
    place.killed(at=3)
    for file in place.out.glob('checkpoints/*/state.json'): file.write_text('')
    assert 'all checkpoints in' in refused(place.start()) and 'delete that folder' in refused(place.start())

def test_few_file_handles(place, undisturbed):
    done(place.start(handles=64))
    assert place.weights == undisturbed

# full disks

@pytest.mark.parametrize('bytes_, missing, what', [(500, 'corpus', 'make room (the cache is in'), (500, 'tokenizers', 'the vocabulary cannot be written to'),
                                                  (100, 'tokens', 'make room (the cache is in'), (8_000, 'tokens', 'the checkpoint of step')])
def test_a_disk_that_is_full(place, undisturbed, bytes_, missing, what):
    done(place.start())
    shutil.rmtree(place.out)
    shutil.rmtree(place.cache/missing)                                     # what has to be written again
    said = refused(place.start(files=bytes_))
    assert what in said and 'File too large' in said and 'make room' in said, said
    done(place.start())
    assert place.weights == undisturbed

def test_a_disk_that_fills_up_later(place, undisturbed):
    before = checkpoint_steps(place.killed().out)
    said = refused(place.start(files=8_000))
    assert f'goes on from step {before[0]}' in said and checkpoint_steps(place.out) == before
    done(place.start())
    assert place.weights == undisturbed

# folders and files

def test_two_runs_into_one_folder(place, undisturbed):
    first = place.start(slow=0.1)
    first.until(lambda: checkpoint_steps(place.out))
    assert 'another process is training into' in refused(place.start())
    done(first)
    assert place.weights == undisturbed

@pytest.mark.parametrize('out', ['rows.jsonl', 'rows.jsonl/run', '/proc/run'])
def test_an_out_that_cannot_be_written(place, out):
    assert 'cannot be written' in (said := refused(place.start('--out', place.folder/out))) and 'give another --out' in said
    assert not list(place.cache.glob('tokens/*'))                          # it is asked before the work

def test_a_finished_run_is_found_again(place):
    done(place.start())
    shutil.rmtree(place.cache)
    assert 'already finished' in done(place.start()) and 'steps 12 there, 13 here' in refused(place.start('--steps', 13))

def test_a_file_that_has_changed(place):
    "The run is another one; who wants to go on all the same keeps its vocabulary."
    place.killed()
    vocabulary = json.loads((place.out/'tokenizer.json').read_text())['model']['vocab']
    write(place.rows, [*ROWS, dict(query='how to zip a zebra', document='def zip_zebra(x): return zip(x)')])
    assert 'belongs to another run: corpus' in (said := refused(place.start())) and '--allow_changes' in said
    assert 'going on with changes: corpus' in done(place.start('--allow_changes'))
    assert json.loads((place.out/'tokenizer.json').read_text())['model']['vocab'] == vocabulary and 'zebra' not in vocabulary

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
    (place.out/'tokenizer.json').unlink()                                  # as the sentence says
    done(place.start())
    assert place.weights == undisturbed

# what is wrong with a command

@pytest.mark.parametrize('words, message', [
    ('--recipe big', "recipe 'big' is none of laptop"), ('--steps 0', 'steps is 0'), ('--learning_rate nan', 'learning rate nan'), ('--batch_size 5000', 'larger than every source'),
    ('--init nowhere', 'nowhere holds no embedding model'), ('--sources jokes', "source 'jokes' is not in"), ('--sources 2024', "source '2024' is not in"), ('--timeout 0', 'timeout is 0.0'),
    ('--keep 0', 'keep is 0'), ('--corpus nowhere.jsonl', 'nowhere.jsonl does not exist'), ('--tracker wandb', 'tracker wandb is not installed'), ('--loss imporved', "loss is 'imporved'")])
def test_a_command_that_cannot_be_run(place, words, message):
    assert message in refused(place.start(*words.split()))

def test_a_start_of_another_kind(place):
    done(place.start())
    assert 'holds a static encoder' in refused(place.start('--recipe', 'laptop', '--init', place.out, '--out', place.folder/'new'))
    assert 'the hub does not give it' in refused(place.start('--start', 'nobody/nothing', '--out', place.folder/'new', HF_HUB_OFFLINE=1))

def test_another_recipe_in_the_folder_of_a_run(place):
    done(place.start())
    assert 'temperature 0.05 there, 0.2 here' in refused(place.start('--temperature', 0.2))

def test_help_names_the_real_folder_of_runs():
    def show():
        gte_nb.stages.runs_folder = lambda: Path('/home/somebody/.cache/gte_nb/runs')    # as in an installed package
        gte_nb.stages.gte_finetune(['--help'])
    said = done(Run(show, COLUMNS=300))
    assert 'default: /home/somebody/.cache/gte_nb/runs/RECIPE/stage2' in said and 'data/runs' not in said

# what a run says of its rows

def test_rows_for_validation_become_a_gauge(place):
    rows = [dict(row, split='validation' if i % 4 == 0 else 'test' if i % 4 == 1 else 'train') for i, row in enumerate(ROWS)]
    write(place.rows, rows)
    said = done(place.start('--gauge_every', 6))
    assert '8 validation rows of rows: not trained on, a gauge measures by them' in said and '8 test rows of rows: not trained on, not used here' in said
    assert 'Retrieval on held-out rows (rows ' in said
    gauges = (place.out/'gauges.csv').read_text().splitlines()
    assert [line.split(',')[:2] for line in gauges[1:]] == [['0', 'rows'], ['6', 'rows'], ['12', 'rows']] and finished_run(place.out)['pairs'] == 12*8

def test_few_rows_for_validation_are_named(place):
    write(place.rows, [dict(row, split='train' if i else 'validation') for i, row in enumerate(ROWS)])
    assert '1 validation row of rows: not trained on, not used here' in done(place.start('--gauge_every', 6))

RANDOM, UNUSED = 'the negatives of rows are random, not hard', 'the negatives of rows are not used in stage 1'
HARD = [dict(row, negative=f'def no_{i}(x): pass') for i, row in enumerate(ROWS)]

@pytest.mark.parametrize('stage, rows, sentence', [(pretrain, ROWS, None), (pretrain, HARD, UNUSED), (finetune, ROWS, RANDOM), (finetune, HARD, None), (finetune, [*HARD[:-1], ROWS[-1]], None)])
def test_negatives_that_are_random_or_not_used(place, stage, rows, sentence):
    write(place.rows, rows)
    said = done(place.start(stage=stage))
    assert [text for text in (RANDOM, UNUSED) if text in said] == [sentence]*bool(sentence)

def test_a_last_batch_of_one_row_is_left_out(place):
    write(place.rows, [*ROWS, dict(query='how to zip a file', document='def zip_file(x): return zip(x)')])
    assert 'each pass leaves out 1 of 33 rows of rows, others each time' in done(place.start())
    assert {row['pairs'] for row in read_log(place.out/'log.csv')} == {8}

def test_several_files_and_names_of_digits(place):
    files = [write(place.folder/name, rows) for name, rows in (('2024.jsonl', ROWS[:9]), ('b.jsonl', ROWS[9:20]), ('c.jsonl', ROWS[20:]))]
    said = done(pretrain([*place.words()[:-4], '--corpus', files[0], '--corpus', *files[1:], '--out', place.out, '--sources', '2024', '--batch_size', 32], GTE_NB_CACHE=place.cache))
    assert "('2024',)" in said and {row['pairs'] for row in read_log(place.out/'log.csv')} == {32}

# `train` in one's own code

TEXTS = [text for row in ROWS for text in row.values()]

class Loop:
    "A run of `train` on rows of its own: started in a fork, with a tokenizer that its folder keeps."
    settings = dict(steps=12, learning_rate=0.01, temperature=0.05, quiet=True)

    def __init__(self, folder, hidden_size=16, dies_at=None, **settings):
        self.folder, self.hidden_size, self.dies_at, self.settings = folder, hidden_size, dies_at, self.settings | settings

    def __call__(self):
        torch.manual_seed(0)
        self.tokenizer = train_tokenizer(TEXTS, 200, special_tokens=False)
        embedder = Embedder(StaticEncoder(200, self.hidden_size), self.tokenizer, 64)
        ids = embedder.tokenize(TEXTS)
        def batch_at(step):
            if step == self.dies_at: os.kill(os.getpid(), signal.SIGKILL)
            rows = np.random.default_rng(step).choice(len(ROWS), 8, replace=False)
            return Batch([ids[2*row] for row in rows], [ids[2*row + 1] for row in rows])
        batch_at = self.settings.pop('batch_at', batch_at)
        try: train(embedder, batch_at, self.folder, **self.settings)
        except ValueError as error: complain(error)

def loop(folder, **settings): return Run(Loop(folder, **settings))

@pytest.mark.parametrize('change, message', [
    (dict(temperature=0.1), 'temperature 0.05 there, 0.1 here'), (dict(token_dropout=0.5), 'token_dropout 0.0 there, 0.5 here'), (dict(steps=0), 'steps is 0'), (dict(keep=0), 'keep is 0'),
    (dict(gauge_every=-1), 'gauge_every is -1'), (dict(learning_rate=float('nan')), 'learning rate nan'), (dict(learning_rate=-1), 'learning rate -1')])
def test_arguments_of_train(tmp_path, change, message):
    done(loop(tmp_path/'run'))
    assert message in refused(loop(tmp_path/('run' if 'there' in message else 'new'), **change))

@pytest.mark.parametrize('settings, message', [
    (dict(tracker='wandb'), 'tracker wandb is not installed'), (dict(learning_rate=1e30, steps=80), 'lower the learning rate'),
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

# texts without a vector

def zeroed(place, *tokens):
    "A static model of the rows' vocabulary in which some tokens have no vector."
    embedder = Embedder.load(place.out)
    for token in tokens: embedder.encoder.embedding.weight.data[embedder.tokenizer.token_to_id(token)] = 0
    embedder.save(place.folder/'zeroed')
    return place.folder/'zeroed'

def test_rows_without_a_vector_are_left_out_and_named(place):
    "Row 4 has a query of unknown characters only, which a model may give the zero vector; in stage 2, row 6 such a negative."
    done(place.start())
    done(Run(zeroed, place, '[UNK]'))
    write(place.rows, [dict(row, query='☃ ☃') if i == 3 else dict(row, negative='☃') if i == 5 else row for i, row in enumerate(ROWS)])
    for stage, rows in ((pretrain, 31), (finetune, 31)):
        more = ('--init', place.folder/'zeroed', '--out', place.folder/stage.__name__, '--batch_size', 32, '--token_dropout', 0, '--steps', 4)
        said = done(place.start(*more, stage=stage))
        assert 'step 0 of 4: row 4 of rows.jsonl is left out, since none of its tokens has a vector' in said or 'row 3 of rows (rows.jsonl' in said
        assert '1 rows have no token with a vector and were left out: ' in said
        assert [row['pairs'] for row in read_log(place.folder/stage.__name__/'log.csv')] == [rows]*4 and finished_run(place.folder/stage.__name__)['left_out'] == 1

def test_dropped_tokens_stop_no_run(place):
    "Token dropout can leave a text with nothing but tokens that have no vector, each time at the same step."
    done(place.start())
    done(Run(zeroed, place, 'how', 'to', 'a', '[UNK]'))
    more = ('--init', place.folder/'zeroed', '--out', place.folder/'thinned', '--token_dropout', 0.8)
    done(place.start(*more))
    log = read_log(place.folder/'thinned'/'log.csv')
    assert len(log) == 12 and not any(row['skipped'] for row in log) and min(row['pairs'] for row in log) < 8

    weights = (place.folder/'thinned'/'model.safetensors').read_bytes()    # killed and gone on with, it is the same run
    shutil.rmtree(place.folder/'thinned')
    assert place.start(*more, dies_at=7).wait()[0] == -signal.SIGKILL
    done(place.start(*more))
    assert (place.folder/'thinned'/'model.safetensors').read_bytes() == weights

def test_a_run_of_nothing_but_zero_vectors_stops(place):
    done(place.start())
    done(Run(zeroed, place, '[UNK]'))
    write(place.rows, [dict(query='☃'*i, document=f'☂ {"☃"*i}') for i in range(1, 33)])
    assert '10 steps in a row were skipped' in (said := refused(place.start('--init', place.folder/'zeroed', '--out', place.folder/'none'))) and 'no pair of the batch has a vector' in said

# random negatives

def neighbours(rows):
    pairs = pandas.DataFrame(rows, columns=['query', 'document', 'module'])
    return pairs, [siblings(pairs, seed) for seed in range(20)]

def test_a_random_negative_is_not_another_right_answer():
    pairs, drawn = neighbours([(f'{query}{mark}', f'{query} answer {i}', 'topic') for i in range(6) for query in ('red', 'Blue') for mark in ('', '!', '?')])
    for other in drawn:
        assert (other >= 0).all()
        assert all(query[:2] != document[:2] for query, document in zip(pairs['query'], pairs['document'].iloc[other]))
    assert len({*map(tuple, drawn)}) == 20

def test_where_all_neighbours_are_right_there_is_none():
    assert all((other == -1).all() for other in neighbours([('red', f'answer {i}', 'red') for i in range(60)])[1])
    assert all(other.tolist() == [-1, -1] for other in neighbours([('a', 'b', 'm'), ('B', 'A.', 'm')])[1])       # a link that is read backwards, and the query itself
    assert all(other.tolist() == [1, 0, -1] for other in neighbours([('a', 'b', 'm'), ('c', 'd', 'm'), ('e', 'f', 'alone')])[1])

def test_other_draws_stay_as_they_are():
    "Where no neighbour is right, the draw is that of the plain formula."
    pairs, drawn = neighbours([(f'query {i}', f'document {i}', f'module {i % 3}') for i in range(30)])
    for seed, other in enumerate(drawn):
        rng, plain = np.random.default_rng(seed), np.full(30, -1)
        for rows in pairs.groupby('module').indices.values(): plain[rows] = rows[(np.arange(10) + rng.integers(1, 10, size=10)) % 10]
        assert (other == plain).all()

# several negatives of a row

def test_all_negatives_of_a_row_are_trained_on(place):
    "Rows bring none, one or three; a batch has as many places as its richest row."
    def look():
        rows = [dict(row, **{f'negative_{k + 1}': f'wrong {k} of {i}' for k in range(i % 4 if i % 4 != 2 else 1)}) for i, row in enumerate(ROWS)]
        corpus = from_files(write(place.rows, rows), place.folder/'corpus')
        embedder = Embedder(StaticEncoder(400, 16), train_tokenizer([*TEXTS, *(f'wrong {k} of {i}' for k in range(3) for i in range(32))], 400, special_tokens=False), 64)
        recipe = replace(gte_nb.stages.RECIPES['laptop-scratch'][1], sources=('rows',), batch_size=4)
        batch_at = gte_nb.stages.triple_batches(embedder, corpus, recipe)
        for step in range(8):
            batch = batch_at(step)
            k = len(batch.negatives) // 4
            for place_, query in enumerate(batch.queries):
                row = [row['query'] for row in ROWS].index(embedder.tokenizer.decode(query.tolist()))
                own = [embedder.tokenizer.decode(ids.tolist()) for ids in batch.negatives[place_*k:(place_ + 1)*k] if len(ids)]
                assert own == [value for name, value in rows[row].items() if name.startswith('negative')]
                assert batch.name(place_) == f'row {row + 1} of rows.jsonl'
    done(Run(look, GTE_NB_CACHE=place.cache))
    done(place.start('--batch_size', 4, stage=finetune))

def test_quotation_marks_as_plain_characters(place):
    "A file that is refused with marks that swallow rows is read without."
    place.rows = place.folder/'rows.tsv'
    place.rows.write_text('query\tdocument\n' + ''.join(f"{row['query']}\t{chr(34) if i == 3 else ''}{row['document']}\n" for i, row in enumerate(ROWS)))
    assert "quoting='none'" in refused(place.start())
    done(place.start('--quoting', 'none'))
    assert finished_run(place.out)['pairs'] == 12*8
