"""Hashes its way through the steps, so that a step done twice or left out shows. Dies or waits where it is told."""
import json
import os
import signal
import sys
import time

import ropeway

run = ropeway.init(total_steps=12, keep=3)
state = 1
if run.input_checkpoint:
    with open(os.path.join(run.input_checkpoint, "state.json")) as file:
        state = json.load(file)["state"]
while ropeway.steps_done() < run.total_steps:
    with ropeway.train_step():
        state = (state * 31 + ropeway.steps_done() + 7) % 1000003
    done = ropeway.steps_done()
    ropeway.metric({"loss": float("nan") if done == 2 else 1 / done, "state": state})
    if str(done) == os.environ.get("DIE_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    if str(done) == os.environ.get("HOPELESS_AT"):
        ropeway.fail("The count is wrong at %d." % done)
    stop = ropeway.emergency_save_requested()
    if str(done) == os.environ.get("WAIT_AT"):
        print("waiting", flush=True)
        while not ropeway.emergency_save_requested():
            time.sleep(0.01)
        stop = True
    if run.rank == 0 and (stop or done % 3 == 0):
        with open(os.path.join(ropeway.checkpoint_folder(), "state.json"), "w") as file:
            json.dump({"state": state}, file)
        ropeway.upload_checkpoint()
    if stop:
        break
print("state %d after %d of rank %d/%d" % (state, ropeway.steps_done(), run.rank, run.world_size))
if str(run.rank) == os.environ.get("FAIL_RANK"):
    sys.exit(9)
