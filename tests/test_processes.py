"Kills, signals and several processes: a run ends in a sentence on each, and the same command goes on."
import os, signal, socket, subprocess, time
from pathlib import Path

import pytest, torch.distributed.run

import gte_nb.data.mining, gte_nb.training.command, gte_nb.training.processes
from forked import OFTEN, TINY, Place, Run, done, refused
from gte_nb.training.checkpoints import checkpoint_steps
from gte_nb.experiments.studies.kills import killed
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
gte_nb.training.processes.ROLL_CALL = 2.   # seconds; the forks below inherit it

@pytest.fixture
def place(tmp_path): return Place(tmp_path)

def shared(place, *more, count=2, **how):
    "Several processes of one run, as a launcher starts them."
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        meeting = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free.getsockname()[1], WORLD_SIZE=count)
    return [place.start(*more, RANK=rank, LOCAL_RANK=rank, **meeting, **how) for rank in range(count)]

def sentence(run): # the last line of a run that ended before its end
    status, text = run.wait()
    assert status in (1, 130) and 'Traceback' not in text, text
    return text.strip().splitlines()[-1] if text.strip() else ''

def goes_on(place): return f'the same command goes on from step {checkpoint_steps(place.out)[0]}'

def has_reached(place, step): return lambda: checkpoint_steps(place.out)[:1] >= [step]

def table(folder): return load_file(folder/'model.safetensors')['embedding.weight']

def close(one, other): return (one - other).norm() < 1e-5*other.norm()

# one process

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(place, number):
    run = place.start('--steps', 100_000, *OFTEN)
    run.until(has_reached(place, 5))
    run.kill(number)
    said = sentence(run)
    assert said.startswith('stopped after step ') and said.endswith(goes_on(place))

def test_a_run_that_is_killed_again_and_again_is_the_same_run():
    "The experiment `kills` in small."
    def study():
        rows = killed('static', 1, kills=3, steps=40)
        assert rows[-1]['value'] and len(rows) >= 3, rows
    done(Run(study))

# several processes

def test_two_processes_train_what_one_trains(place, tmp_path):
    done(place.start())
    said = [done(run) for run in shared(place, '--out', tmp_path/'shared')]
    assert said[0].count('Recipe laptop-scratch') == 1 and not said[1].strip()   # one speaks for both
    assert close(table(tmp_path/'shared'), table(place.out))

@pytest.mark.parametrize('lost', [0, 1, 2])
def test_a_process_is_killed_within_a_step(place, lost):
    runs = shared(place, '--steps', 100_000, count=3)
    runs[0].until(has_reached(place, 3))
    runs[lost].kill()
    assert runs.pop(lost).wait()[0] == -signal.SIGKILL
    for run in runs: assert sentence(run) == f'error: process {lost} of 3 has died; {goes_on(place)}'

def test_a_process_that_hangs(place):
    runs = shared(place, '--steps', 100_000, '--timeout', 2)
    runs[0].until(has_reached(place, 3))
    runs[1].kill(signal.SIGSTOP)
    assert 'error: process 1 of 2 does not answer; the same command goes on from step' in sentence(runs[0])
    runs[1].kill(signal.SIGCONT)
    assert 'the same command goes on from step' in sentence(runs[1])

def preparing(place):
    "The command, in which preparing the corpus takes for ever."
    def corpus(*asked):
        (place.folder/'began').touch()
        time.sleep(600)
    def command(words):
        gte_nb.data.mining.open_corpus = corpus
        gte_nb.training.command.gte_pretrain(words)
    return lambda words, **how: Run(command, list(map(str, words)), **how)

@pytest.mark.parametrize('lost', [0, 1])
def test_a_process_is_killed_before_the_first_step(place, lost):
    runs = shared(place, '--timeout', 2, stage=preparing(place))
    runs[0].until((place.folder/'began').exists)
    time.sleep(3)                                                     # the time-out is meant for a step only
    runs[lost].kill()
    runs.pop(lost).wait()
    if lost: runs[0].kill(signal.SIGTERM)                                 # what torchrun does then
    said = sentence(runs[0])
    assert f'process {lost} of 2 has died' in said and 'the same command goes on' in said

def test_bad_input_is_said_once(place):
    runs = shared(place, '--sources', 'jokes')
    assert "source 'jokes' is not in" in refused(runs[0])
    assert sentence(runs[1]) == ''

SLOW = '''
import time
from gte_nb.data import sampler
from gte_nb.training import command
batch = sampler.MixtureSampler.__getitem__
def slowly(self, step): time.sleep(0.1); return batch(self, step)
sampler.MixtureSampler.__getitem__ = slowly
command.gte_pretrain()                                                     # what the command is
'''

def test_torchrun(place):
    "Two processes of torchrun, one of which is killed; then the same command on one."
    (place.folder/'slow.py').write_text(SLOW)
    words = [*TINY, *OFTEN, '--corpus', place.rows, '--out', place.out, '--steps', 30, '--timeout', 10]
    torchrun = [*map(str, ['--nproc_per_node', 2, '--', place.folder/'slow.py', *words])]
    environment = dict(PYTHONPATH=ROOT, GTE_NB_CACHE=place.cache, OMP_NUM_THREADS=1)
    launcher = Run(torch.distributed.run.main, torchrun, **environment)
    launcher.until(has_reached(place, 3))
    for child in Path(f'/proc/{launcher.process}/task/{launcher.process}/children').read_text().split():
        settings = Path(f'/proc/{child}/environ').read_text().split('\0')
        if 'RANK=1' in settings: os.kill(int(child), signal.SIGKILL)
    said = launcher.wait()[1]
    assert f'error: process 1 of 2 has died; {goes_on(place)}\n' in said, said
    assert 'broadcast_object_list' not in said, said
    done(place.start('--steps', 30))
    done(place.start('--steps', 30, '--out', place.folder/'alone'))
    assert close(table(place.out), table(place.folder/'alone'))

# a notebook

IN_A_NOTEBOOK = '''
import numpy as np, torch
from gte_nb.data.batches import Batch
from gte_nb.model.embedder import Embedder
from gte_nb.model.encoder import StaticEncoder
from gte_nb.training.loop import train
tokenizer = Embedder.load(keep_layers=()).tokenizer
embedder = Embedder(StaticEncoder(tokenizer.get_vocab_size(), 8), tokenizer, 32)
texts = [np.array([number]) for number in range(2000, 2016)]
train(embedder, lambda step: Batch(texts[:8], texts[8:]), {out!r}, 100_000, 0.01, checkpoint_seconds=0.)
'''

def test_a_notebook_shows_no_warning_and_can_be_interrupted(place):
    "In a kernel without ipywidgets, of which tqdm would say so in red; *Interrupt the kernel* is Ctrl-C."
    from jupyter_client.manager import start_new_kernel
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    manager, client = start_new_kernel(kernel_name='python3', env=environment, stderr=subprocess.DEVNULL)
    def messages(last):
        while True:
            yield (message := client.get_iopub_msg(timeout=120))
            if last(message): return
    try:
        client.execute("import sys; sys.modules['ipywidgets'] = None; import gte_nb.training.stages")
        said = [*messages(lambda message: message['content'].get('execution_state') == 'idle')]
        assert not [message for message in said if message['msg_type'] in ('stream', 'error')]
        client.execute(IN_A_NOTEBOOK.format(out=str(place.out)))
        while not has_reached(place, 5)(): time.sleep(0.02)
        manager.interrupt_kernel()
        *_, error = messages(lambda message: message['msg_type'] == 'error')
    finally: manager.shutdown_kernel(now=True)
    step = checkpoint_steps(place.out)[0]
    sentence = f'stopped after step {step} of 100000; the same command goes on from step {step}'
    assert error['content']['traceback'] == [sentence]                   # and no traceback
