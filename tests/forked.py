"Runs in forks of this process, which has imported everything and computed nothing: they start at once."
import inspect, json, os, resource, signal, sys, time, traceback

# what runs import on their way
import huggingface_hub.repocard_data, matplotlib.backends.backend_agg, matplotlib.figure  # noqa: F401
import pandas, pyarrow.dataset, pyarrow.parquet, torch.distributed.fsdp  # noqa: F401
import gte_nb.training.command, gte_nb.training.stages, gte_nb.training.watch
from gte_nb.training.checkpoints import checkpoint_steps
from gte_nb.data.sampler import MixtureSampler
from gte_nb.training.recipes import Recipe

inspect.getsource(Recipe)                                               # of which --help reads the comments

class NoChart:
    "Of a run at whose chart nobody looks."
    def savefig(self, *path, **how): pass

class Run:
    "A function in a process of its own; a limit on its files fails within a write, as a full disk does."
    def __init__(self, work, *arguments, files=None, handles=None, dies_at=None, slow=0., chart=False,
                 **environment):
        self.output, written = os.pipe()                                # no file, which would be limited too
        sys.stdout.flush(); sys.stderr.flush()
        self.process = os.fork()
        if self.process: return os.close(written)
        status = 1
        try:
            for number in (1, 2): os.dup2(written, number)
            os.close(written)
            sys.stdout = sys.stderr = open(1, 'w', encoding='utf-8', buffering=1, closefd=False)
            os.environ.update({name: str(value) for name, value in environment.items()})
            if files: resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
            if handles: resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))
            if dies_at is not None or slow: _at_each_batch(dies_at, slow)
            if not chart: gte_nb.training.watch.draw_run = lambda *arguments: NoChart()
            work(*arguments)
            status = 0
        except SystemExit as error: status = error.code or 0
        except BaseException: traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def kill(self, number=signal.SIGKILL): os.kill(self.process, number)

    def wait(self): # exit status, or minus a signal's number; what was printed
        with open(self.output, encoding='utf-8', errors='replace') as output: text = output.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), text

    def until(self, condition, seconds=120):
        "Wait for something that the run does."
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds:
                self.kill()
                raise AssertionError(f'waited {seconds} s: {self.wait()[1]}')
            time.sleep(0.01)

def _at_each_batch(dies_at, slow):
    item = MixtureSampler.__getitem__
    def batch(self, step):
        if step == dies_at: os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(slow)
        return item(self, step)
    MixtureSampler.__getitem__ = batch

def pretrain(words, **how): return Run(gte_nb.training.command.gte_pretrain, list(map(str, words)), **how)

def finetune(words, **how): return Run(gte_nb.training.command.gte_finetune, list(map(str, words)), **how)

def done(run): # what it printed
    status, text = run.wait()
    assert status == 0, text
    return text

def refused(run): # its sentence
    status, text = run.wait()
    errors = [line for line in text.splitlines() if line.startswith('error: ')]
    assert status == 1 and len(errors) == 1 and 'Traceback' not in text, text
    return errors[0]

VERBS, THINGS = 'open close read write copy move sort join'.split(), 'file list tree graph'.split()
ROWS = [dict(query=f'how to {verb} a {thing}', document=f'def {verb}_{thing}(x): return {verb}(x, {thing!r})')
        for thing in THINGS for verb in VERBS]
TINY = ('--recipe laptop-scratch --vocab_size 200 --hidden_size 16 --batch_size 8 --steps 12 '
        '--gauge_every 0').split()
OFTEN = ['--checkpoint_seconds', '0', '--keep', '3']                    # a checkpoint before each step

def write(file, rows):
    file.write_text('\n'.join(map(json.dumps, rows)) + '\n', encoding='utf-8')
    return file

class Place:
    "A folder with a file of rows, a cache, and the command that trains on them."
    def __init__(self, folder, rows=ROWS):
        self.folder, self.out, self.cache = folder, folder/'run', folder/'cache'
        self.rows = write(folder/'rows.jsonl', rows)

    def start(self, *more, stage=pretrain, **how):
        words = [*TINY, *OFTEN*bool(how), '--corpus', self.rows, '--out', self.out, *more]
        return stage(words, GTE_NB_CACHE=self.cache, **how)

    def killed(self, *more, at=7, **how):
        assert self.start(*more, dies_at=at, **how).wait()[0] == -signal.SIGKILL
        assert checkpoint_steps(self.out)[0] == at - 1            # a batch vouches for the weights before it
        return self

    @property
    def weights(self): return (self.out/'model.safetensors').read_bytes()
