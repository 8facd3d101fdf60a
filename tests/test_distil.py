"""Distillation: a student comes nearer to its teacher, a kill changes no bit, gradients are those of the
formulas, and what is refused says why."""
import json, multiprocessing, os, random, signal, subprocess, sys, time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.pop('GTE_NB_EVAL_DATA', None)

import numpy as np
import pandas as pd
import pytest
import torch

from gte_nb.data.files import from_files
from gte_nb.data.tokens import train_tokenizer
from gte_nb.model.embedder import Embedder
from gte_nb.model.folders import Dense
from gte_nb.training import distil as module
from gte_nb.training import teacher as asking
from gte_nb.training.checkpoints import checkpoint_steps
from gte_nb.training.distil import OBJECTIVES, distil_gradient
from gte_nb.training.distil_command import Distillation, gte_distil, run_distillation
from gte_nb.training.start import new_bert

WORDS = ('read write open close file table row column sort list key value parse text number date time path '
         'folder name count sum mean split join merge filter map test raise error warn log print '
         'load save').split()

def sentences(n, seed):
    rng = random.Random(seed)
    return [' '.join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(n)]

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A corpus of made-up pairs, a teacher of two layers with random weights, and its folder."
    folder = tmp_path_factory.mktemp('distil')
    rows = [dict(query=query, document=document, split='validation' if i % 5 == 0 else 'train')
            for i, (query, document) in enumerate(zip(sentences(400, 1), sentences(400, 2)))]
    (folder/'pairs.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    teacher = new_bert(train_tokenizer(sentences(300, 3), 300), layers=2, hidden_size=64, max_length=32)
    with torch.no_grad():                           # with small random weights all texts have the same vector
        for p in teacher.encoder.parameters(): p.mul_(4. if p.ndim > 1 else 1.)
    teacher.save(folder/'teacher')
    with patch.dict(os.environ, GTE_NB_CACHE=str(folder/'cache')):
        file = folder/'pairs.jsonl'
        yield SimpleNamespace(folder=folder, teacher=folder/'teacher', corpus=from_files(file), file=file)

TINY = dict(steps=20, batch_size=16, tokens=16, texts=300, learning_rate=2e-3)

def run(world, out, **more):
    how = {name: more.pop(name) for name in ('checkpoint_seconds',) if name in more}
    if 'width' not in more: more.setdefault('keep_layers', (1,))
    recipe = Distillation(str(world.teacher), **TINY | more)
    run_distillation(recipe, out, world.corpus, quiet=True, **how)

def words_of(world, *options):
    tiny = [f'--{name}={value}' for name, value in TINY.items()]
    return [str(world.teacher), '--corpus', str(world.file), *tiny, *map(str, options)]

def cosines(folder): return pd.read_csv(folder/'gauges.csv').set_index('step')['score']

@pytest.mark.parametrize('options', ['--width 32 --learning-rate 0.01',
                                     '--width 64 --learning_rate 0.01 --objective squared_error'])
def test_twenty_steps_bring_a_student_nearer_to_its_teacher(world, options, tmp_path, capsys):
    gte_distil(words_of(world, '--out', tmp_path/'run', *options.split()))
    measured, student = cosines(tmp_path/'run'), Embedder.load(tmp_path/'run')
    assert measured[20] > measured[0] + 0.003
    static = '--width' in options
    assert (student.hidden_size, student.static) == (int(options.split()[1]) if static else 64, static)
    said, card = capsys.readouterr().out, (tmp_path/'run'/'README.md').read_text()
    assert '300 texts' in said and 'loss' in said and 'distillation' in card and 'masked language' not in card

def test_a_whole_student_stays_where_it_is(world, tmp_path):
    run(world, tmp_path/'run', keep_layers=(0, 1), learning_rate=1e-4, steps=2)
    assert cosines(tmp_path/'run')[0] == pytest.approx(1, abs=1e-6)

def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(world, tmp_path):
    run(world, tmp_path/'whole')
    context = multiprocessing.get_context('fork')
    child = context.Process(target=lambda: run(world, tmp_path/'killed', checkpoint_seconds=0.))
    child.start()
    while not (checkpoint_steps(tmp_path/'killed') or [0])[0] >= 3 and child.is_alive(): time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path/'killed'/'training.json').exists()
    run(world, tmp_path/'killed')
    killed, whole = ((tmp_path/name/'model.safetensors').read_bytes() for name in ('killed', 'whole'))
    assert killed == whole

def test_a_kill_costs_the_teacher_a_block(world, tmp_path, monkeypatch):
    monkeypatch.setenv('GTE_NB_CACHE', str(tmp_path))
    teacher = Embedder.load(world.teacher)
    ids = teacher.tokenize(sentences(40, 8))
    whole, asked = np.array(asking.teacher_vectors(teacher, ids, 'whole')), []
    def slowly(teacher, ids, first):
        asked.append(first)
        if first: time.sleep(60)
        return embedded(teacher, ids, first)
    embedded = asking._embedded
    with patch.object(asking, 'BLOCK', 16), patch.object(asking, '_embedded', slowly):
        child = multiprocessing.get_context('fork').Process(target=asking.teacher_vectors,
            args=(teacher, ids, 'killed'))
        child.start()
        while not [part for part in tmp_path.glob('distil/killed*.part') if part.stat().st_size]:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with patch.object(asking.os, 'replace', wraps=os.replace), patch.object(time, 'sleep'):
            again = asking.teacher_vectors(teacher, ids, 'killed')
    assert asked == [16, 32] and np.allclose(again, whole, atol=1e-6)

# What the objectives say, from one encoding of all texts.
def unit(vectors): return vectors / vectors.norm(dim=1, keepdim=True)
FORMULAS = dict(cosine=lambda s, t: 1 - (unit(s) * unit(t)).sum(1).mean(),
                squared_error=lambda s, t: ((s - t)**2).sum() / len(s))

def gradient_of(student):
    row = torch.cat([p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten()
                     for p in student.encoder.parameters()])
    student.encoder.zero_grad(set_to_none=True)
    return row

@pytest.mark.parametrize('objective', OBJECTIVES)
def test_loss_and_gradient_are_those_of_the_formula_and_processes_add_up(world, objective):
    student, teacher = Embedder.load(world.teacher, keep_layers=(1,),
        dropout=0.), Embedder.load(world.teacher)
    for model in (student, teacher): model.encoder.double()
    ids = student.tokenize(sentences(24, 5), 16)
    with torch.no_grad(): wanted = teacher.embed(ids)
    expected = FORMULAS[objective](student.embed(ids), wanted)
    expected.backward()
    reference, batch = gradient_of(student), list(zip(ids, wanted.numpy()))
    def apart(): return (gradient_of(student) - reference).norm() / reference.norm()
    assert distil_gradient(objective)(student, batch, (0, 0)) == pytest.approx(expected.item(), rel=1e-9)
    assert apart() < 1e-9
    with patch.object(module, 'processes') as processes, patch('torch.distributed.all_reduce'):
        for process in range(3):
            processes.return_value = SimpleNamespace(process_index=process, num_processes=3)
            distil_gradient(objective)(student, batch, (0, 0))
    assert apart() < 1e-9

@pytest.mark.parametrize('options, says', [
    (('--teacher-is', 'nowhere', '--keep-layers', '0'), 'nowhere: the hub does not give it'),
    (('--teacher-is', '.', '--keep-layers', '0'), '. holds no embedding model'),
    (('--keep-layers', '0,2'), 'keep_layers names layer 2'),
    ((), 'say what the student is'),
    (('--keep-layers', '0', '--width', '32'), 'say what the student is'),
    (('--width', '65'), 'a table of width 65 cannot match vectors of 64 numbers'),
    (('--width', '-1'), 'width is -1'),
    (('--keep-layers', '0', '--objective', 'l1'), "objective is 'l1'"),
    (('--keep-layers', '0', '--batch-size', '0'), 'batch of 0 rows'),
    (('--keep-layers', '0', '--batch-size', '1000'), 'batch of 1000 is larger than every source'),
    (('--keep-layers', '0', '--texts', '0'), '0 texts are asked for'),
    (('--keep-layers', '0', '--sources', 'other'), 'source other has no training rows'),
    (('--keep-layers', '0', '--tokens', '600'), 'is more than the 512 positions'),
    (('--keep-layers', '0', '--steps', '0'), 'steps is 0'),
    (('--keep-layers', '0', '--learning-rate', 'nan'), 'learning rate nan'),
    (('--keep-layers', '0', '--corpus', 'nowhere.jsonl'), 'nowhere.jsonl does not exist'),
    (('--keep-layers', '0,0'), 'keep_layers is 0,0; name each layer once, from the first to the last: 0'),
    (('--keep-layers', '1,0'), 'keep_layers is 1,0; name each layer once, from the first to the last: 0,1'),
    (('--keep-layers', '0', '--texts', '3000', '--batch-size', '1000'), 'batch of 1000 is larger'),
    (('--keep-layers', '0', '--tokens', '2'), 'max_length is 2, but a whole number from 3 up is needed'),
    (('--keep-layers', '0', '--alpha', '-1'), 'alpha is -1.0'),
    (('--keep-layers', '0', '--seed', '-1'), 'seed is -1'),
    (('--keep-layers', '0', '--gauge-every', '0'), 'gauge_every is 0'),
    (('--keep-layers', '0', '--out', os.devnull), 'cannot be written'),
], ids=lambda value: ' '.join(value) if isinstance(value, tuple) else '')
def test_bad_input_is_one_sentence(world, options, says, tmp_path, capsys):
    words = words_of(world, '--out', str(tmp_path/'run'), *options)
    if '--teacher-is' in words: words = [options[1], *words[1:words.index('--teacher-is')], *options[2:]]
    with patch.object(asking, 'teacher_vectors', side_effect=AssertionError('the teacher was asked')):
        with pytest.raises(SystemExit) as left: gte_distil(words)
    out, error = capsys.readouterr()
    assert left.value.code == 1 and not out and error.startswith('error: ')
    assert error.count('\n') == 1 and says in error

@pytest.mark.parametrize('option, says', [
    ('--keep-layers=a', "layers are whole numbers separated by commas, such as 2,5, and not 'a'"),
    ('--keep-layers=0,1.5', "and not '0,1.5'"),
    ('--width=all', "invalid int value: 'all'"),
])
def test_what_is_no_number(option, says, world, capsys):
    with pytest.raises(SystemExit) as left: gte_distil(words_of(world, option))
    assert left.value.code == 2 and says in capsys.readouterr().err

@pytest.mark.parametrize('student', [('--keep-layers', 1), ('--width', 24)])
def test_a_teacher_that_keeps_some_numbers_of_each_vector(student, world, tmp_path):
    teacher = Embedder.load(world.teacher)
    teacher.settings.truncate_dim = 48
    teacher.save(tmp_path/'teacher')
    gte_distil([str(tmp_path/'teacher'), *words_of(world, *student, '--out', tmp_path/'run')[1:]])
    assert cosines(tmp_path/'run')[20] > cosines(tmp_path/'run')[0]
    width = Embedder.load(tmp_path/'run').encode('read a file').shape[1]
    assert width == (24 if '--width' in student else 48)

def test_a_folder_of_an_unfinished_run_is_refused_before_a_teacher_is_asked(world, tmp_path):
    class Stop:
        def after_step(self, run):
            if len(run.log) == 3: raise KeyboardInterrupt
    recipe = Distillation(str(world.teacher), (1,), **TINY)
    with pytest.raises(KeyboardInterrupt):
        run_distillation(recipe, tmp_path, world.corpus, quiet=True, checkpoint_seconds=0.,
            callbacks=[Stop()])
    assert checkpoint_steps(tmp_path)
    with patch.object(asking, 'teacher_vectors', side_effect=AssertionError('the teacher was asked')):
        with pytest.raises(ValueError, match='holds another run: seed 0 there, 1 here'):
            run_distillation(replace(recipe, seed=1), tmp_path, world.corpus, quiet=True)

def test_a_folder_of_another_teacher_is_refused(world, tmp_path, capsys):
    run(world, tmp_path/'run', steps=2)
    other = Embedder.load(world.teacher)
    with torch.no_grad(): other.encoder.embeddings.word_embeddings.weight[5] += 1
    other.save(tmp_path/'other')
    with pytest.raises(SystemExit), patch.object(asking, 'teacher_vectors', side_effect=AssertionError):
        gte_distil([str(tmp_path/'other'), *words_of(world, '--keep-layers', 1, '--steps', 2, '--out',
            tmp_path/'run')[1:]])
    error = capsys.readouterr().err
    assert 'holds another finished run' in error and 'teacher' in error and error.count('\n') == 1

def test_teachers_that_cannot_lend_their_layers(world, tmp_path, capsys):
    run(world, tmp_path/'table', width=32, steps=2)
    dense = Embedder.load(world.teacher)
    dense.settings.layers.append(Dense(torch.nn.Linear(64, 16)))
    dense.save(tmp_path/'dense')
    for name, why in (('table', 'is a table and has no layers'), ('dense', 'ends in a Dense module')):
        words = words_of(world, '--steps', 2, '--out', tmp_path/name/'student')
        with pytest.raises(SystemExit): gte_distil([str(tmp_path/name), *words[1:], '--keep-layers', '0'])
        assert why in capsys.readouterr().err
        gte_distil([str(tmp_path/name), *words[1:], '--width', '8'])
        assert Embedder.load(tmp_path/name/'student').hidden_size == 8

def test_a_vector_that_is_not_finite_is_refused(world):
    teacher = Embedder.load(world.teacher)
    with torch.no_grad(): teacher.encoder.embeddings.word_embeddings.weight[:] = float('nan')
    with pytest.raises(ValueError,
            match="the teacher gives text 0, 'read a file', a vector that is not finite"):
        asking.teacher_vectors(teacher, teacher.tokenize(['read a file']), 'broken')

def test_help_imports_neither_torch_nor_pandas():
    code = ('import sys; from gte_nb.training.distil_command import gte_distil\n'
            'try: gte_distil(["--help"])\nexcept SystemExit: print({"torch", "pandas"} & {*sys.modules})')
    told = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert told.stdout.endswith('set()\n') and '--keep-layers' in told.stdout, told.stderr
