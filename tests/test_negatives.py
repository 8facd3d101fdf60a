"Hard negatives: the rules one by one, on texts that are directions in a plane, so that each cosine is known."
import os, pydoc, signal, subprocess, sys

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from forked import ROWS, Run, refused, write
from tokenizers import Tokenizer

from gte_nb.data.files import from_files
from gte_nb.model.embedder import Embedder, minilm_folder
from gte_nb.model.encoder import StaticEncoder
from gte_nb.training import candidates, mine_negatives
from gte_nb.training.mine_negatives import gte_negatives
from gte_nb.training.negatives import Rules, mine_hard_negatives

class Angles:
    "Each text is an angle in degrees."
    def encode(self, texts):
        angle = np.radians([float(text.split()[-1]) for text in texts])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

# the positive lies at 40°, cosine 0.77: with the absolute margin a negative has 0.72 at most, which is 44°
ONE = pd.DataFrame([('query 0', 'positive 40', 'm'), ('linked 50', 'Query  0', 'm')],
    columns=['query', 'document', 'module'])
FREE = dict(absolute_margin=None)
CASES = { # what it shows: candidates, rules, the negative
    'the most similar one': (['far 80', 'near 60'], {}, 'near 60'),
    'not the query, in whatever spelling': (['QUERY: 0', 'far 80'], {}, 'far 80'),
    'not the positive': (['Positive 40.', 'far 80'], FREE, 'far 80'),
    'not a link in the other direction': (['linked 50', 'far 80'], {}, 'far 80'),
    'not a likely false negative, above 0.72': (['wins 30', 'ties 42', 'far 80'], {}, 'far 80'),
    'unless one asks for it': (['wins 30', 'ties 42', 'far 80'], FREE, 'wins 30'),
    'nothing is left': (['wins 30', 'positive 40'], {}, ''),
    'the first of what passes is left out': (['wins 30', 'far 80', 'near 60'], dict(range_min=1), 'far 80'),
    # with two links the window of 1 is the nearest 3: query, wins, ties
    'a window': (['wins 30', 'ties 42', 'near 60'], dict(range_max=1), ''),
    # 0.9 · 0.77 = 0.69, which is 46°
    'a relative margin': (['ties 42', 'near 44.5', 'far 80'], dict(relative_margin=0.1), 'far 80'),
    'a highest score': (['near 60', 'far 80'], dict(max_score=0.4), 'far 80'),
}

@pytest.mark.parametrize('texts, rules, negative', CASES.values(), ids=CASES)
def test_a_rule(texts, rules, negative):
    pool = pd.DataFrame([('m', text) for text in texts] + [('other', 'elsewhere 45')],
        columns=['module', 'text'])
    assert mine_hard_negatives(Angles(), ONE, pool, **rules)['negative'][0] == negative

COPY, OTHER = 'i h g f e d c b a 60', 'b c d e f g h 70'                # 9 of 11 words, 7 of 11

@pytest.mark.parametrize('share, negative', [(None, COPY), (0.9, COPY), (0.8, OTHER), (0.6, '')])
def test_near_copies(share, negative):
    words = pd.DataFrame([('query 0', 'a b c d e f g h i 40', 'm')], columns=['query', 'document', 'module'])
    mined = mine_hard_negatives(Angles(), words, [COPY, OTHER], within=None, near_copies=share)
    assert mined['negative'][0] == negative

SPREAD = [f'far {angle}' for angle in range(50, 90, 2)]

def test_several_negatives():
    several = mine_hard_negatives(Angles(), ONE[:1], SPREAD, num_negatives=3, within=None)
    assert several.filter(regex='^negative_[0-9]').iloc[0].tolist() == ['far 50', 'far 52', 'far 54']
    assert np.allclose(several.filter(like='similarity').iloc[0].astype(float),
                       np.cos(np.radians([40, 50, 52, 54])))

def test_random_ones_of_a_window():
    draws = [mine_hard_negatives(Angles(), ONE[:1], SPREAD, num_negatives=2, range_min=1, range_max=6,
        within=None,
                                 sampling='random', seed=seed) for seed in (*range(40), 7)]
    drawn = {text for draw in draws for text in (draw['negative_1'][0], draw['negative_2'][0])}
    assert draws[7].equals(draws[40]) and drawn == {f'far {angle}' for angle in (52, 54, 56, 58, 60)}
    assert all(draw['negative_similarity_1'][0] > draw['negative_similarity_2'][0] for draw in draws)

def test_candidates_are_the_documents_unless_given():
    two = pd.concat([ONE[:1], ONE[:1].assign(query='query 20', document='positive 70')])
    assert mine_hard_negatives(Angles(), two, within=None)['negative'].tolist() == ['positive 70', '']

@pytest.mark.parametrize('wrong, sentence', [
    ('num_negative', 'did you mean num_negatives?'), ('absolut_margin', 'did you mean absolute_margin?'),
    ('withing', 'did you mean within?'), ('zzz', 'its rules are num_negatives, range_min')])
def test_an_unknown_rule_is_refused(wrong, sentence):
    with pytest.raises(TypeError) as error: mine_hard_negatives(Angles(), ONE, **{wrong: 1})
    assert f'{wrong} is no argument of mine_hard_negatives; ' in str(error.value) and sentence in str(
        error.value)

def test_help_describes_the_rules():
    shown = pydoc.render_doc(mine_hard_negatives, renderer=pydoc.plaintext)
    assert 'num_negatives (int, default 1): for each pair' in shown
    assert all(f'        {name} (' in shown for name in Rules.__dataclass_fields__)

# The command
@pytest.fixture(scope='module')
def model(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(minilm_folder()/'tokenizer.json'))
    folder = tmp_path_factory.mktemp('model')
    Embedder(StaticEncoder(tokenizer.get_vocab_size(), 16), tokenizer).save(folder)
    return folder

@pytest.fixture
def place(tmp_path, monkeypatch, model):
    "Files, and sizes so small that 32 pairs make four blocks and eight tiles."
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path/'cache'))
    for module, sizes in ((candidates, dict(TILE=64, WIDTH=8)), (mine_negatives, dict(WINDOW=8))):
        for name, size in sizes.items(): monkeypatch.setattr(module, name, size)
    write(tmp_path/'pairs.jsonl', ROWS)
    write(tmp_path/'more.jsonl', [dict(text=f'def {i}(x): return {i}') for i in range(32)])
    monkeypatch.chdir(tmp_path)
    return tmp_path

def words(model, *more, out='triples.parquet', margin='-0.5'):
    return ['pairs.jsonl', '--model', str(model), '--out', out, '--documents', 'more.jsonl',
            *['--absolute_margin', margin]*bool(margin), *more]

def mined(model, *more, **how):
    gte_negatives(words(model, *more, **how))
    return pd.read_parquet(how.get('out', 'triples.parquet'))

def test_the_command_mines_what_the_function_does(place, model, capsys):
    found = mined(model, '--num_negatives', '2', '--near_copies', '0.9')
    pairs = pd.DataFrame(ROWS)
    texts = [*pairs['document'], *(f'def {i}(x): return {i}' for i in range(32))]
    asked = mine_hard_negatives(Embedder.load(model), pairs, texts, within=None, num_negatives=2,
                                near_copies=0.9, absolute_margin=-0.5)
    assert found.equals(asked[['query', 'document', 'negative_1', 'negative_2']].astype('str'))
    assert '32 of 32 pairs, chosen among 64 texts' in capsys.readouterr().out
    assert not list(place.glob('*.work'))

def test_a_finished_file_is_known_again(place, model, capsys):
    argv = [*words(model), '--query', 'ask', '--document', 'answer']
    write(place/'pairs.jsonl', [dict(ask=row['query'], answer=row['document']) for row in ROWS])
    gte_negatives(argv)
    before = (place/'triples.parquet').stat().st_mtime_ns
    gte_negatives(argv)
    assert 'triples.parquet: already finished' in capsys.readouterr().out
    with pytest.raises(SystemExit): gte_negatives([*argv, '--seed', '1'])
    assert 'triples.parquet holds other triples; remove it, or name another' in capsys.readouterr().err
    assert (place/'triples.parquet').stat().st_mtime_ns == before and not list(place.glob('*.work'))

def test_triples_are_read_by_from_files(place, model):
    mined(model, '--num_negatives', '2')
    triples = from_files(['triples.parquet']).pairs('triples')
    assert len(triples) == 32 and all(len(texts) == 2 for texts in triples['negatives'])
    gte_negatives(words(model, out='triples.jsonl'))
    assert (from_files(['triples.jsonl']).pairs('triples')['negative'] != '').all()

def test_words_instead_of_vectors(place):
    assert len(mined('bm25', margin=None)) == 32

@pytest.mark.parametrize('name', ['more.jsonl.gz', 'more.csv', 'more.tsv', 'more.parquet'])
def test_documents_in_other_files(place, model, name):
    expected = mined(model)
    texts = pd.read_json('more.jsonl', lines=True).rename(columns=dict(text='document'))
    if name.endswith('.parquet'): texts.to_parquet(name)
    elif name.endswith('.gz'): texts.to_json(name, orient='records', lines=True)
    else: texts.to_csv(name, sep=',' if name == 'more.csv' else '\t', index=False)
    argv = [name if word == 'more.jsonl' else word for word in words(model, out='again.parquet')]
    gte_negatives(argv)
    assert pd.read_parquet('again.parquet').equals(expected)

def test_what_is_left_without_a_negative(place, model, capsys):
    few = mined(model, '--num_negatives', '5', margin='0.2')
    said = capsys.readouterr().out
    every = mined(model, '--num_negatives', '5', '--keep_incomplete', margin='0.2', out='every.parquet')
    kept = every.filter(like='negative').notna().sum(axis=1)
    assert 0 < len(few) < len(every) == 32 and every[kept == 5].reset_index(drop=True).equals(few)
    assert f'{len(few)} of 32 pairs' in said and f'for {(kept == 0).sum()} pairs no text passes' in said
    assert f'for {kept.between(1, 4).sum()} fewer than 5 do; they are left out' in said

def test_splits_and_documents_without_text(place, model, capsys):
    write(place/'pairs.jsonl', [dict(row, split='validation' if i < 4 else 'train')
                                for i, row in enumerate(ROWS)])
    write(place/'more.jsonl', [dict(text='a text'), dict(text=' '), dict(), dict(text='?!')])
    assert mined(model)['split'].value_counts().to_dict() == {'train': 28, 'validation': 4}
    said = capsys.readouterr().out
    assert '2 of 4 documents of more.jsonl have no text and are left out; the first is row 2' in said
    assert 'chosen among 33 texts' in said                                # and ?! has no words

def counted(monkeypatch, module, name):
    calls, work = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *words: calls.append(1) or work(*words))
    return calls

def killed(argv, module, name, at):
    "A command that is killed when it calls a function for the `at`th time."
    def work():
        calls, before = [], getattr(module, name)
        def dies(*words):
            calls.append(1)
            if len(calls) == at: os.kill(os.getpid(), signal.SIGKILL)
            return before(*words)
        setattr(module, name, dies)
        gte_negatives(argv)
    assert Run(work).wait()[0] == -signal.SIGKILL

RANDOM = '--sampling', 'random', '--range_max', '9'

@pytest.mark.parametrize('name, at, windows, blocks', [
    ('unit_vectors', 5, 8, 4), ('_mine_block', 3, 0, 2), ('_write', 1, 0, 0)])
def test_killed_anywhere_the_same_command_goes_on(place, model, monkeypatch, name, at, windows, blocks):
    gte_negatives(words(model, *RANDOM, out='undisturbed.parquet'))
    module = candidates if name == 'unit_vectors' else mine_negatives
    killed(words(model, *RANDOM), module, name, at)
    embedded, mining = (counted(monkeypatch, *function) for function in (
        (candidates, 'unit_vectors'), (mine_negatives, '_mine_block')))
    gte_negatives(words(model, *RANDOM))
    assert (len(embedded), len(mining)) == (windows, blocks)              # 12 windows and 4 blocks in all
    assert (place/'triples.parquet').read_bytes() == (place/'undisturbed.parquet').read_bytes()

def test_other_rules_keep_the_vectors(place, model, monkeypatch, capsys):
    killed(words(model), mine_negatives, '_mine_block', 3)
    embedded = counted(monkeypatch, candidates, 'unit_vectors')
    other = mined(model, margin='0')
    assert not embedded and 'this begins anew' in capsys.readouterr().out
    assert other.equals(mined(model, margin='0', out='fresh.parquet'))

def test_a_full_disk(place, model):
    assert 'make room' in refused(Run(gte_negatives, words(model), files=2000))
    assert len(mined(model)) == 32                                        # goes on where there is room

REFUSED = { # words that are added; files that are written; the sentence
    'a missing column': ([], dict(pairs='{"question": "a"}'), 'from_files needs query and document'),
    'no such pairs': (['other.jsonl'], {}, 'other.jsonl does not exist'),
    'no model': (['--model', 'nowhere'], {}, 'nowhere holds no embedding model'),
    'a window that is too narrow': (['--num_negatives', '3', '--range_max', '2'], {},
                                    '3 negatives do not fit between range_min 0 and range_max 2'),
    'random of everything': (['--sampling', 'random'], {}, 'give range_max'),
    'a share above 1': (['--near_copies', '2'], {}, 'near_copies is 2'),
    'an unknown ending': (['--out', 'triples.csv'], {}, 'triples are written as .parquet or .jsonl'),
    'a file that is there': (['--out', 'more.jsonl'], {}, 'more.jsonl is there already; remove it'),
    'no such documents': (['--documents', 'else.jsonl'], {}, 'else.jsonl is no file'),
    'documents without a column': ([], dict(more='{"title": "a"}'), 'no text in a column document or text'),
    'documents that are numbers': ([], dict(more='{"text": 1}'), 'more.jsonl cannot be read (JSON parse'),
    'documents that break off': ([], dict(more='{"text": "a'), 'more.jsonl cannot be read (JSON parse error'),
    'documents of another kind': (['--documents', 'words.txt'], dict(words='a'), 'documents come as .jsonl'),
    'nothing is left': (['--absolute_margin', '3'], {}, 'no pair has a negative; lower the margin'),
}

@pytest.mark.parametrize('more, files, sentence', REFUSED.values(), ids=REFUSED)
def test_the_command_refuses(place, model, capsys, more, files, sentence):
    for name, text in files.items():
        (place/(f'{name}.txt' if name == 'words' else f'{name}.jsonl')).write_text(text)
    at = 0 if more[:1] == ['other.jsonl'] else None
    argv = words(model)
    with pytest.raises(SystemExit) as stop: gte_negatives([*more, *argv] if at == 0 else [*argv, *more])
    said = capsys.readouterr().err
    assert stop.value.code == 1 and sentence in said and said.count('\n') == 1

def test_two_commands_for_one_file(place, model, capsys):
    (place/'triples.parquet.work').mkdir()
    with FileLock('triples.parquet.work/lock'), pytest.raises(SystemExit): gte_negatives(words(model))
    assert 'another command is writing triples.parquet' in capsys.readouterr().err

def test_a_model_that_compares_otherwise(place, model, capsys):
    embedder = Embedder.load(model)
    embedder.settings.similarity, embedder.settings.normalize = 'dot', False
    embedder.save('other')
    with pytest.raises(SystemExit): gte_negatives(words('other'))
    assert 'other compares vectors by dot' in capsys.readouterr().err

def test_help_reads_neither_torch_nor_pandas():
    code = ('import sys, gte_nb.training.mine_negatives as command\n'
            'try: command.gte_negatives(["--help"])\n'
            'finally: print({"torch", "pandas", "pyarrow"} & sys.modules.keys())')
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
    assert '--absolute_margin' in printed and printed.endswith('set()\n')
