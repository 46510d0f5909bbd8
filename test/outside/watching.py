"""Reads with TensorBoard's and W&B's own code what Ropeway wrote: watching.py BOARD WANDB_FILE...

W&B's files are read by the reader in its wandb-core (`wandb-core leet --inspect`), and their records parsed by the
message classes of its package; the rest of the package is not needed, and not imported.
"""
import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time
import types
import zlib

import tensorboard
from tensorboard.backend.event_processing import event_accumulator

board, *files = sys.argv[1:]

events = event_accumulator.EventAccumulator(board, size_guidance={"scalars": 0})
events.Reload()
print("tensorboard", tensorboard.__version__, "tags", sorted(events.Tags()["scalars"]))
loss = events.Scalars("loss")
steps = [point.step for point in loss]
assert steps == list(range(1, 1501)), (len(steps), steps[:3], steps[-3:])
assert all(abs(point.value - 4 / point.step**0.5) < 1e-6 for point in loss)
print("tensorboard: 1500 points, each step once, over two lives; last loss", loss[-1].value)

root = os.path.dirname(importlib.util.find_spec("wandb").origin)
package = types.ModuleType("wandb")
package.__path__ = [root]
version = re.search(r'__version__ = "([^"]+)"', open(os.path.join(root, "__init__.py")).read())
package.__version__ = version.group(1)
sys.modules["wandb"] = package
from wandb.proto import wandb_internal_pb2  # noqa: E402


def records(path):
    """Of LevelDB's log format: blocks of 32 KiB with pieces of checksum, length, kind (1 whole, 2 first, 3, 4 last)."""
    data = open(path, "rb").read()
    assert data[:7] == b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    at, held = 7, b""
    while at < len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + 7])
        content = data[at + 7 : at + 7 + length]
        assert checksum == zlib.crc32(bytes([kind]) + content)
        held += content
        at += 7 + length
        if kind in (1, 4):
            yield held
            held = b""


def inspected(path):
    """What W&B's own reader shows of the file in a terminal."""
    core = os.path.join(root, "bin", "wandb-core")
    folder = os.path.dirname(os.path.dirname(path))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color")
        os.execv(core, [core, "leet", "--inspect", "--run-file", path, folder])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown, begun, asked = b"", time.time(), False
    while time.time() - begun < 8:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
        if time.time() - begun > 4 and not asked:
            os.write(terminal, b"q")
            asked = True
    os.waitpid(pid, 0)
    return re.sub(rb"\x1b\[[0-9;?<>=]*[a-zA-Z]", b" ", shown).decode("utf8", "replace")


print("wandb", package.__version__)
for path in files:
    kinds, last = {}, None
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind == "run":
            run = record.run
            config = {item.key: json.loads(item.value_json) for item in run.config.update}
            print("wandb run", run.run_id, run.project, run.display_name, config, "from step", run.starting_step)
        if kind == "history":
            last = {item.key: json.loads(item.value_json) for item in record.history.item}
    print("wandb:", kinds, "last", last)
    counted = re.search(r"of (\d+)\]", inspected(path))
    print("wandb-core leet --inspect:", counted.group(1), "records")
    assert int(counted.group(1)) == sum(kinds.values())
