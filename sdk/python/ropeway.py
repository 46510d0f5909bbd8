"""Ropeway's side of a training program, in one file without dependencies. Copy it, or find it on PYTHONPATH in a job.

    import ropeway

    run = ropeway.init(total_steps=1000)
    if run.input_checkpoint:                      # an earlier attempt's newest, or the one the job starts from
        load(run.input_checkpoint)
    for step in range(run.steps_done, run.total_steps):
        with ropeway.train_step():
            loss = ...
        ropeway.metric({"loss": loss})
        stop = ropeway.emergency_save_requested()
        if stop or ropeway.steps_done() % 100 == 0:
            save(ropeway.checkpoint_folder())     # an empty folder
            ropeway.upload_checkpoint()           # from now on it is whole and will be found
        if stop:
            break

Outside of a job (no ROPEWAY_OUTPUT in the environment) the same code writes to ./ropeway-out and goes on from there.
The contract that it follows is docs/any-training-code.md. Python 3.8 or later.
"""

import hashlib
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager

__all__ = [
    "init", "train_step", "metric", "checkpoint_folder", "upload_checkpoint",
    "emergency_save_requested", "steps_done", "fail", "Run",
]

_HEARTBEAT_SECONDS = 1.0
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$")
_FOLDER = re.compile(r"^step-(\d{6,})$")
_MANIFEST = "ropeway.json"


class Run:
    """What this process is and where its things are. Paths are strings; those that are not there are None."""

    def __init__(self, total_steps, keep):
        env = os.environ.get
        self.total_steps = total_steps
        self.keep = keep
        self.rank = int(env("RANK") or 0)
        self.world_size = int(env("WORLD_SIZE") or 1)
        self.local_rank = int(env("LOCAL_RANK") or 0)
        self.node_rank = int(env("NODE_RANK") or 0)
        self.data = env("ROPEWAY_DATA") or None
        self.output = os.path.abspath(env("ROPEWAY_OUTPUT") or "ropeway-out")
        self.input_checkpoint = env("ROPEWAY_INPUT_CHECKPOINT") or None
        self.steps_done = int(env("ROPEWAY_STEPS_DONE") or 0)
        self._events = env("ROPEWAY_EVENTS") or os.path.join(self.output, "events-%d.jsonl" % self.rank)
        self._emergency = env("ROPEWAY_EMERGENCY") or None
        os.makedirs(self.output, exist_ok=True)
        if self.rank == 0:
            # What an attempt that was killed had not finished saving.
            shutil.rmtree(os.path.join(self.output, "checkpoints", ".saving"), ignore_errors=True)
        if not env("ROPEWAY_OUTPUT"):
            newest = _newest(self.output)
            if newest is not None:
                self.steps_done, self.input_checkpoint = newest
        self._step = self.steps_done
        self._last_heartbeat = float("-inf")
        self._terminated = threading.Event()
        self._listens = False
        self._warned = False

    def _emit(self, event, **fields):
        line = json.dumps({"event": event, "t": int(time.time() * 1000), **fields}, allow_nan=False) + "\n"
        try:
            # One write in append mode: lines of several writers do not mix.
            file = os.open(self._events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, line.encode("utf-8"))
            finally:
                os.close(file)
        except OSError as error:
            # A full disk must not end the training; the log says once that reports are missing.
            if not self._warned:
                sys.stderr.write("ropeway: events cannot be written: %s\n" % error)
            self._warned = True


_run = None


def _current():
    if _run is None:
        raise RuntimeError("ropeway.init(total_steps=...) comes before everything else")
    return _run


def init(total_steps, keep=None):
    """Begins, or goes on after run.steps_done steps. `keep` is how many checkpoints stay (all of them by default)."""
    global _run
    if not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError("total_steps must be a whole number of at least 1, not %r" % (total_steps,))
    if keep is not None and (not isinstance(keep, int) or keep < 1):
        raise ValueError("keep must be a whole number of at least 1, not %r" % (keep,))
    _run = Run(total_steps, keep)
    _run._emit("start", total_steps=total_steps, steps_done=_run.steps_done, rank=_run.rank)
    return _run


def steps_done():
    """Steps that are done, those of earlier attempts included."""
    return _current()._step


@contextmanager
def train_step():
    """Around one step. A step that raises is not counted."""
    run = _current()
    begin = time.monotonic()
    yield
    now = time.monotonic()
    run._step += 1
    if now - run._last_heartbeat >= _HEARTBEAT_SECONDS or run._step >= run.total_steps:
        run._last_heartbeat = now
        run._emit("heartbeat", step=run._step, step_ms=round((now - begin) * 1000, 6))


def metric(values, step=None):
    """Numbers by name, of the step that was done last unless `step` says otherwise."""
    run = _current()
    out = {}
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.match(name):
            raise ValueError("%r is no name of a metric: letters, digits and _ . / -, at most 100" % (name,))
        number = float(value)
        # JSON has no NaN, and a loss that is NaN is what one wants to see most.
        out[name] = number if math.isfinite(number) else str(number)
    if out:
        run._emit("metrics", step=run._step if step is None else int(step), values=out)


def checkpoint_folder():
    """The folder to save into before upload_checkpoint(); it is there, and empty the first time after an upload."""
    path = os.path.join(_current().output, "checkpoints", ".saving")
    os.makedirs(path, exist_ok=True)
    return path


def upload_checkpoint(path=None, step=None):
    """Makes a checkpoint of checkpoint_folder(), or of a copy of the file or folder `path`. Returns its folder.

    It appears whole, with a hash of every file, or not at all. With several ranks, one of them calls it when all of
    them have written.
    """
    run = _current()
    step = run._step if step is None else int(step)
    root = os.path.join(run.output, "checkpoints")
    os.makedirs(root, exist_ok=True)
    name = "step-%06d" % step
    source = os.path.join(root, ".saving") if path is None else os.path.join(root, ".%s.tmp" % name)
    if path is not None:
        shutil.rmtree(source, ignore_errors=True)
        if os.path.isdir(path):
            shutil.copytree(path, source)
        else:
            os.makedirs(source)
            shutil.copy2(path, source)
    files = _hashes(source)
    if not files:
        raise ValueError("there is nothing to upload in %s" % (path or source))
    _write_synced(os.path.join(source, _MANIFEST), json.dumps({"format": 1, "step": step, "files": files}, indent=1))
    _replace(source, os.path.join(root, name))
    run._emit("checkpoint", step=step, folder="checkpoints/" + name)
    if run.keep is not None:
        # Those of later steps are damaged, or the program would have gone on from them: they neither count nor go.
        until = [old for at, old in _found(run.output) if at <= step]
        for old in until[: -run.keep]:
            _discard(old)
    return os.path.join(root, name)


def emergency_save_requested():
    """True when the job is about to be stopped or a save was asked for: save within this step.

    From the first call on, SIGTERM no longer ends the program: it has to end itself.
    """
    run = _current()
    if not run._listens and threading.current_thread() is threading.main_thread():
        run._listens = True
        before = signal.getsignal(signal.SIGTERM)

        def on_term(number, frame):
            run._terminated.set()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, on_term)
    return run._terminated.is_set() or (run._emergency is not None and os.path.exists(run._emergency))


def fail(why, final=True):
    """Ends the program with code 1 and says why. `final`: the same again would end the same, so it is not tried again."""
    _current()._emit("failure", text=str(why)[:10000], final=bool(final))
    sys.stderr.write("%s\n" % why)
    raise SystemExit(1)


def _hashes(folder):
    files = {}
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            if relative == _MANIFEST:
                continue
            digest = hashlib.sha256()
            size = 0
            with open(path, "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    digest.update(piece)
                    size += len(piece)
                os.fsync(file.fileno())
            files[relative] = {"bytes": size, "sha256": digest.hexdigest()}
    return files


def _write_synced(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(source, target):
    # The same step may be there from an earlier attempt; it makes way only when the new one is complete.
    aside = os.path.join(os.path.dirname(target), ".%s.old.tmp" % os.path.basename(target))
    shutil.rmtree(aside, ignore_errors=True)
    if os.path.exists(target):
        os.rename(target, aside)
    os.rename(source, target)
    folder = os.open(os.path.dirname(target), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _discard(folder):
    # Renamed first, so that a folder that is half gone never looks like a checkpoint.
    aside = os.path.join(os.path.dirname(folder), ".%s.old.tmp" % os.path.basename(folder))
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _found(output):
    root = os.path.join(output, "checkpoints")
    if not os.path.isdir(root):
        return []
    matches = [(_FOLDER.match(name), name) for name in os.listdir(root)]
    return sorted((int(match.group(1)), os.path.join(root, name)) for match, name in matches if match)


def _newest(output):
    for step, folder in reversed(_found(output)):
        try:
            with open(os.path.join(folder, _MANIFEST), encoding="utf-8") as file:
                if json.load(file)["files"] == _hashes(folder):
                    return step, folder
        except (OSError, ValueError, KeyError):
            pass
        sys.stderr.write("ropeway: %s is damaged; looking for an earlier checkpoint\n" % folder)
    return None
