"Kills, signals and several processes: a run ends in a sentence on every process, and the same command goes on."
import os, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path

import gte_nb.stages, gte_nb.training, pytest, torch
from forked import Place, Run, done, finetune, pretrain, refused
from gte_nb.checkpoints import checkpoint_steps
from gte_nb.studies.kills import killed
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
gte_nb.training.ROLL_CALL = 2.   # seconds that the forks below wait for a process that neither answers nor is gone

@pytest.fixture
def place(tmp_path): return Place(tmp_path)

def shared(place, *more, count=2, each=(), **how):
    "Several processes of one run, as a launcher starts them."
    with socket.socket() as free: free.bind(('127.0.0.1', 0)); port = free.getsockname()[1]
    return [place.start(*more, MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=count, RANK=rank, LOCAL_RANK=rank, **how, **(each[rank] if each else {})) for rank in range(count)]

def sentence(run):
    status, text = run.wait()
    assert status in (1, 130) and 'Traceback' not in text, text
    return text.strip().splitlines()[-1] if text.strip() else ''

# one process

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(place, number):
    run = place.start('--steps', 100_000)
    run.until(lambda: checkpoint_steps(place.out)[:1] > [5])
    run.kill(number)
    said = sentence(run)
    assert said.startswith('stopped after step ') and said.endswith(f'the same command goes on from step {checkpoint_steps(place.out)[0]}')

def test_a_run_that_is_killed_again_and_again_is_the_same_run():
    "The experiment `kills` in small."
    def study():
        rows = killed('static', 1, kills=3, steps=40)
        assert rows[-1]['value'] and len(rows) >= 3, rows
    done(Run(study))

# several processes

def test_two_processes_train_what_one_trains(place, tmp_path):
    done(place.start())
    alone = load_file(place.out/'model.safetensors')['embedding.weight']
    place.out = tmp_path/'shared'
    said = [done(run) for run in shared(place)]
    assert said[0].count('Recipe laptop-scratch') == 1 and not said[1].strip()                    # one of them speaks for both
    assert (load_file(place.out/'model.safetensors')['embedding.weight'] - alone).norm() < 1e-5*alone.norm()

@pytest.mark.parametrize('lost', [0, 1, 2])
def test_a_process_is_killed_within_a_step(place, lost):
    runs = shared(place, '--steps', 100_000, count=3)
    runs[0].until(lambda: checkpoint_steps(place.out)[:1] > [3])
    runs[lost].kill()
    assert runs.pop(lost).wait()[0] == -signal.SIGKILL
    for run in runs: assert f'error: process {lost} of 3 has died; the same command goes on from step {checkpoint_steps(place.out)[0]}' == sentence(run)

def test_a_process_that_hangs(place):
    runs = shared(place, '--steps', 100_000, '--timeout', 2)
    runs[0].until(lambda: checkpoint_steps(place.out)[:1] > [3])
    runs[1].kill(signal.SIGSTOP)
    assert 'error: process 1 of 2 does not answer; the same command goes on from step' in sentence(runs[0])
    runs[1].kill(signal.SIGCONT)
    assert 'the same command goes on from step' in sentence(runs[1])

class Preparing:
    "The command, in which preparing the corpus takes for ever."
    def __init__(self, place): self.place = place
    def __call__(self, words, **how):
        def command(words):
            gte_nb.stages.open_corpus = lambda paths: [self.place.folder.joinpath('began').touch(), time.sleep(600)]
            gte_nb.stages.gte_pretrain(words)
        return Run(command, list(map(str, words)), **how)

@pytest.mark.parametrize('lost', [0, 1])
def test_a_process_is_killed_before_the_first_step(place, lost):
    runs = shared(place, '--timeout', 2, stage=Preparing(place))
    runs[0].until((place.folder/'began').exists)
    time.sleep(3)                                                          # longer than the time-out, which is meant for a step
    runs[lost].kill()
    runs.pop(lost).wait()
    if lost: runs[0].kill(signal.SIGTERM)                                  # what torchrun does then
    assert f'process {lost} of 2 has died' in (said := sentence(runs[0])) and 'the same command goes on' in said

def test_bad_input_is_said_once(place):
    runs = shared(place, '--sources', 'jokes')
    assert "source 'jokes' is not in" in refused(runs[0])
    assert sentence(runs[1]) == ''

def test_torchrun(place):
    "Two real processes of torchrun, one of which is killed; then the same command on one."
    script = place.folder/'pretrain.py'
    script.write_text('from gte_nb.stages import gte_pretrain; gte_pretrain()')                   # what the command gte_pretrain is
    words = [*map(str, place.words('--steps', 30, '--timeout', 10))]
    slow = 'import time; from gte_nb import sampler; get = sampler.MixtureSampler.__getitem__\nsampler.MixtureSampler.__getitem__ = lambda self, step: (time.sleep(0.1), get(self, step))[1]\n'
    (place.folder/'slow.py').write_text(slow + script.read_text())
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--', place.folder/'slow.py', *words]
    launcher = subprocess.Popen(command, env=os.environ | dict(PYTHONPATH=str(ROOT), GTE_NB_CACHE=str(place.cache), OMP_NUM_THREADS='1'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while checkpoint_steps(place.out)[:1] < [3] and launcher.poll() is None: time.sleep(0.05)
    workers = {int(dict(entry.partition('=')[::2] for entry in Path(f'/proc/{child}/environ').read_text().split('\0'))['RANK']): int(child)
               for child in Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()}
    os.kill(workers[1], signal.SIGKILL)
    said = launcher.communicate()[0]
    assert f'error: process 1 of 2 has died; the same command goes on from step {checkpoint_steps(place.out)[0]}\n' in said and 'broadcast_object_list' not in said, said
    done(place.start('--steps', 30))
    gone_on, place.out = load_file(place.out/'model.safetensors')['embedding.weight'], place.folder/'alone'
    done(place.start('--steps', 30))
    alone = load_file(place.out/'model.safetensors')['embedding.weight']
    assert (gone_on - alone).norm() < 1e-5*alone.norm()

def test_a_notebook_that_imports_training_shows_no_warning():
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(kernel_name='python3', env=os.environ | dict(PYTHONPATH=str(ROOT)), stderr=subprocess.DEVNULL)
    try:
        client.execute("import sys; sys.modules['ipywidgets'] = None; import gte_nb.training")
        said = []
        while (message := client.get_iopub_msg(timeout=120))['content'].get('execution_state') != 'idle': said.append(message)
    finally: manager.shutdown_kernel(now=True)
    assert not [message for message in said if message['msg_type'] in ('stream', 'error')]
