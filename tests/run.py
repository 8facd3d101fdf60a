"""Every check of `make test`: the export, lines and types, the notebooks, the tables of cases, a built wheel.

Prints a line for each, and last `N passed, N failed[, N skipped]`. Words behind the command pick checks:
`python tests/run.py losses wheel` runs those whose names hold one of them."""
import compileall, configparser, filecmp, gc, multiprocessing, os, shutil, signal, subprocess, sys, tempfile
import time, venv, zipfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 600  # seconds for one child process
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = min(2, CORES)  # checks that run side by side
RUNNING = set()  # child processes
config = configparser.ConfigParser(delimiters=["="])
config.read(ROOT/"settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
LIB, NBS, BIN = settings["lib_name"], settings["nbs_path"], Path(sys.executable).parent
# Notebooks and tables of cases run in forks of one process that has imported what most of them import, and
# nothing of ours: importing it anew would be a third of all processor time.
FORKS = multiprocessing.get_context("forkserver")
IMPORTED = ["torch._dynamo", "torch.distributed.fsdp", "accelerate", "pandas", "pyarrow.parquet",
            "matplotlib.pyplot", "scipy.stats", "sklearn.cluster", "sentence_transformers", "bm25s", "mteb",
            "nbdev.test", "pytest"]

# of the tables of cases: those that read the project's corpus; and those that mostly wait, for time-outs,
# and so run beside the others without taking the place of one
WITH_CORPUS, WAITING = ("tests/test_contributing",), ("tests/test_processes",)

class Failure(Exception): "A check that did not hold; its text is all that a reader needs."

def end(process):
    "Kill a child process and whatever it has started."
    try: os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError: pass
    process.wait() if isinstance(process, subprocess.Popen) else process.join()

def begin(log, folder, work, arguments):
    "In a fork: call `work` in a session of its own, and print into `log`."
    os.setsid()
    gc.freeze()    # what is imported stays: to look through it would take a fifth of a second each time
    multiprocessing.set_start_method(None, force=True)                        # a fork server hands on its own
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2): os.dup2(output, number)
    for number, name in enumerate(("stdout", "stderr"), 1):
        setattr(sys, name, open(number, "w", buffering=1, encoding="utf-8", closefd=False))
    os.chdir(folder)
    work(*arguments)

def start(work, folder, log):
    "Start a command as a process, or a function with its arguments in a fork."
    if callable(work[0]):
        process = FORKS.Process(target=begin, args=(log.name, folder, work[0], work[1:]))
        process.start()
        return process
    return subprocess.Popen([str(part) for part in work], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                            stderr=subprocess.STDOUT, start_new_session=True)

def child(*work, cwd):
    """Run a command, or a function in a fork; return what it printed. A non-zero exit, a signal or a
    time-out is a `Failure`. Whatever it started ends with it."""
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = start(work, cwd, log)
        RUNNING.add(process)
        try:
            if isinstance(process, subprocess.Popen): status = process.wait(LIMIT)
            else: process.join(LIMIT); status = process.exitcode
        except subprocess.TimeoutExpired: status = None
        finally:
            end(process)
            RUNNING.discard(process)
        text = Path(log.name).read_text(encoding="utf-8", errors="replace")
    if status == 0: return text
    at = [line for line in text.splitlines() if line.startswith("CELL ")]
    where = f" while running cell {at[-1][5:]}" if at else ""
    if status is None: why = f"stopped after {LIMIT} s{where}"
    elif status < 0:
        why = (f"the process died of {signal.Signals(-status).name}{where} (SIGKILL usually means that "
               "memory ran out)")
    else: why = ""
    lines = [line for line in text.splitlines() if not line.startswith(("CELL ", "SKIPPED: "))]
    raise Failure("\n".join(filter(None, [why, *lines[-60:]])) or f"exit status {status}, nothing printed")

def notebooks():
    """The notebooks of nbs/ and its folders, in the order they are read; names that start with `_` or `.`
    are left out, as nbdev does."""
    found = [path.relative_to(ROOT/NBS) for path in (ROOT/NBS).rglob("*.ipynb")]
    return sorted((path for path in found if not any(part[0] in "_." for part in path.parts)),
        key=lambda path: (path.parent, path.name))

def same_files(ours, made, pattern, advice):
    """Every file below `ours` that matches `pattern` is, byte for byte, the one below `made`, and the
    other way round."""
    names = sorted({str(path.relative_to(top)) for top in (ours, made) for path in top.rglob(pattern)
                    if not any(part[0] == "." for part in path.relative_to(top).parts)})
    different = [name for name in names if not ((ours/name).exists() and (made/name).exists()
        and filecmp.cmp(ours/name, made/name, shallow=False))]
    if different: raise Failure("\n".join(f"{ours.relative_to(ROOT)}/{name} {advice}" for name in different))

def check_export(work):
    "The modules are what the notebooks export."
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT/name, work)
    shutil.copytree(ROOT/NBS, work/NBS)
    (work/LIB).mkdir()
    # those few that no notebook exports
    for file in (ROOT/LIB).rglob("*.py"):
        if "AUTOGENERATED" not in file.read_text(encoding="utf-8")[:2000]:
            (work/file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, work/file.relative_to(ROOT))
    child(BIN/"nbdev_export", cwd=work)
    same_files(ROOT/LIB, work/LIB, "*.py", "is not what the notebooks export: run `nbdev_export`")
    if not filecmp.cmp(ROOT/"pyproject.toml", work/"pyproject.toml", shallow=False):
        raise Failure("pyproject.toml is stale: run `nbdev_export`")

def check_clean(work):
    "`nbdev_clean` would change no notebook."
    shutil.copy(ROOT/"settings.ini", work)
    shutil.copytree(ROOT/NBS, work/NBS)
    child(BIN/"nbdev_clean", cwd=work)
    same_files(ROOT/NBS, work/NBS, "*.ipynb", "is not clean: run `nbdev_clean`")

def check_lint(work):
    "Style, lines, types."
    child("make", "-s", "lint", f"VENV={BIN.parent}", cwd=ROOT)

def check_readme(work):
    "README.md is what nbs/index.ipynb gives."
    child("make", "-s", "readme", f"VENV={BIN.parent}", f"README_DIR={work}", cwd=ROOT)
    if not filecmp.cmp(ROOT/"README.md", work/"README.md", shallow=False):
        raise Failure("README.md is not what nbs/index.ipynb gives: run `make readme`")

def check_wheel(work):
    "A wheel holds the package and the tables of data/, installs, and works from outside the checkout."
    source, outside = work/"source", work/"outside"
    outside.mkdir()
    shutil.copytree(ROOT/LIB, source/LIB, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT/name, source)
    for folder in (".", "results", "runs", "cache"): (source/"data"/folder).mkdir(parents=True, exist_ok=True)
    for table in (ROOT/"data").glob("*.csv"): shutil.copy(table, source/"data")
    for folder in ("results", "runs", "cache"): (source/"data"/folder/"left-behind.csv").write_text("a\n1\n")
    child(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", work,
        cwd=source)
    wheel, = work.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    stray = [name for name in names if not name.startswith((f"{LIB}/", f"{LIB}-")) or "left-behind" in name
        or ".ipynb" in name]
    if stray: raise Failure(f"the wheel holds what it should not: {', '.join(stray)}")
    for name in ("tables/corpus-packages.csv", "py.typed"):
        if f"{LIB}/{name}" not in names: raise Failure(f"the wheel lacks {LIB}/{name}")

    # A fresh environment that sees the installed dependencies, but no editable install: .pth files are not
    # followed from a .pth file.
    venv.create(work/"env", symlinks=True)
    python, packages = work/"env/bin/python", next((work/"env").glob("lib/python*/site-packages"))
    child(sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index", wheel,
        cwd=outside)
    (packages/"dependencies.pth").write_text("\n".join(path for path in sys.path
        if path.endswith(("site-packages", "dist-packages"))))
    child(python, "-c", f"""if True:
        import builtins, dis, importlib, importlib.resources, pathlib, pkgutil, types, {LIB}
        def of(code, order):
            yield from (step.argval for step in dis.get_instructions(code) if step.opname == order)
            for part in code.co_consts:
                if isinstance(part, types.CodeType): yield from of(part, order)
        where = pathlib.Path({LIB}.__file__)
        assert where.is_relative_to({str(work)!r}), f'{{where}} is imported instead of the wheel'
        for found in pkgutil.walk_packages({LIB}.__path__, '{LIB}.'):
            module = importlib.import_module(found.name)
            code = compile(pathlib.Path(module.__file__).read_bytes(), module.__file__, 'exec')
            known = {{*of(code, 'STORE_GLOBAL'), *vars(module), *vars(builtins)}}
            missing = {{*of(code, 'LOAD_GLOBAL')}} - known
            why = f'{{found.name}} lacks what its functions use: {{missing}}'
            assert not missing, f'{{why}}; a cell that is not exported defines it'
        assert (importlib.resources.files('{LIB}')/'tables'/'corpus-packages.csv').is_file()""", cwd=outside)
    for command in settings["console_scripts"].split():
        child(work/"env/bin"/command.split("=")[0], "--help", cwd=outside)

def run_notebook(path):
    """In the child process: execute one notebook with nbdev's `test_nb`, naming each cell as it starts and
    each line `SKIPPED: why`."""
    from execnb.shell import CaptureShell
    from nbdev.test import test_nb
    run_all = CaptureShell.run_all
    def reporting(self, nb, exc_stop, preproc):
        for cell in nb.cells: cell.pop("outputs", None)
        left_out = [cell for cell in nb.cells if cell.cell_type == "code" and preproc(cell)
            and "nbdev_export(" not in cell.source]
        if left_out:
            print(f"SKIPPED: {len(left_out)} cell(s) marked `eval: false` or `{settings['tst_flags']}`")
        def before(cell):
            print("CELL", cell.idx_ + 1, flush=True)
            return preproc(cell)
        def after(cell):
            printed = "".join("".join(out.get("text", [])) for out in cell.get("outputs", []))
            for line in printed.splitlines():
                if line.startswith("SKIPPED: "): print(line, flush=True)
        run_all(self, nb, exc_stop=exc_stop, preproc=before, postproc=after)

    CaptureShell.run_all = reporting
    passed, seconds = test_nb(Path(path), skip_flags=settings["tst_flags"].split(), basepath=ROOT)
    if passed and not seconds: print("SKIPPED: the whole notebook, marked `skip_exec`")
    print("FINISHED" if passed else "", flush=True)
    sys.exit(not passed)

def run_cases(path):
    "In the child process: one table of cases."
    import pytest
    sys.path.insert(0, str(ROOT/"tests"))
    sys.exit(pytest.main(["-q", "-rs", "-p", "no:cacheprovider", str(path)]))

def check_notebook(path):
    "One notebook, in a process of its own, in its own folder; returns what it skipped."
    text = child(run_notebook, path, cwd=path.parent)
    if "FINISHED" not in text: raise Failure("the process ended before the notebook did")
    return [line[9:] for line in text.splitlines() if line.startswith("SKIPPED: ")]

def check_cases(path):
    "One table of cases, `tests/test_*.py`, run by pytest; returns what it skipped."
    text = child(run_cases, path, cwd=ROOT/"tests")
    return [line.removeprefix("SKIPPED ") for line in text.splitlines() if line.startswith("SKIPPED ")]

def in_order(checks):
    """In a fresh clone, a check that reads the project's corpus waits until it is mined. So the miner comes
    first, beside what does not read it; the notebooks, most of which are short, end side by side."""
    def place(name):
        if name == "machinery/mining": return 0
        if name.startswith(("book/", "experiments/", "machinery/", "index")): return 3
        return 2 if name in WITH_CORPUS else 1
    return sorted(checks, key=lambda check: place(check[0]))

def main(*wanted):
    "Run all checks, or those whose names hold one of the words."
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))
    # lives as long as this function
    caches = tempfile.TemporaryDirectory(prefix=f"{LIB}-test-")
    os.environ["HF_DATASETS_CACHE"] = caches.name                            # read when datasets is imported
    # who is killed leaves semaphores to the tracker, which would say so below the last line
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    FORKS.set_forkserver_preload(IMPORTED)
    # once, instead of in each process, where PYTHONDONTWRITEBYTECODE is set, as in many containers
    compileall.compile_dir(ROOT/LIB, quiet=1)
    chapters = [(str(path.with_suffix("")), check_notebook, ROOT/NBS/path) for path in notebooks()]
    cases = [(f"tests/{path.stem}", check_cases, path) for path in sorted((ROOT/"tests").glob("test_*.py"))]
    checks = [("export: the modules match the notebooks", check_export, None),
              ("clean: the notebooks hold no stray metadata", check_clean, None),
              ("readme: README.md matches the index", check_readme, None),
              ("lint: style, lines, types", check_lint, None), *chapters, *cases,
              ("wheel: builds, installs, imports and runs outside the checkout", check_wheel, None)]
    checks = in_order([check for check in checks if not wanted or any(word in check[0] for word in wanted)])
    passed, failed, skipped = 0, [], []
    if not chapters: failed.append(f"no notebook in {NBS}/")
    def run(name, check, path):
        "(name, seconds, what went wrong, what was skipped)"
        start, text, left_out = time.time(), "", []
        with tempfile.TemporaryDirectory(prefix=f"{LIB}-test-") as work:
            try: left_out = check(path or Path(work).resolve()) or []
            except Failure as failure: text = str(failure)
            except OSError as error: text = f"{type(error).__name__}: {error}"
        return name, time.time() - start, text, left_out
    with ThreadPoolExecutor(WORKERS) as pool, ThreadPoolExecutor(1) as beside:
        def submitted(check): return (beside if check[0] in WAITING else pool).submit(run, *check)
        try:
            for done in as_completed(map(submitted, checks)):
                name, seconds, text, left_out = done.result()
                print(f"{'FAIL' if text else 'ok  '} {seconds:5.1f} s  {name}", flush=True)
                skipped += [f"{name}: {why}" for why in left_out]
                if text: failed.append(name), print("     " + text.replace("\n", "\n     "), flush=True)
                else: passed += 1
        except KeyboardInterrupt:
            for each in (pool, beside): each.shutdown(wait=False, cancel_futures=True)
            for process in tuple(RUNNING): end(process)
            sys.exit(130)
    for title, lines in (("Skipped:", skipped), ("Failed:", failed)):
        if lines: print("\n" + title, *lines, sep="\n  ")
    print(f"\n{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
    sys.exit(bool(failed))

if __name__ == "__main__":
    main(*sys.argv[1:])
