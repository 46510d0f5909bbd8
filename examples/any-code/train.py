"""A bigram model of letters by gradient descent, in plain Python: what a job of any code looks like."""
import argparse
import json
import math
import os
import random

import ropeway

parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", type=float, default=1.0)
options = parser.parse_args()

TEXT = "call me ishmael some years ago never mind how long precisely having little or no money in my purse "
LETTERS = sorted(set(TEXT))
INDEX = {letter: index for index, letter in enumerate(LETTERS)}
PAIRS = [(INDEX[a], INDEX[b]) for a, b in zip(TEXT, TEXT[1:])]
BATCH = 32

run = ropeway.init(total_steps=200, keep=2)
scores = [[0.0] * len(LETTERS) for _ in LETTERS]
if run.input_checkpoint:
    with open(os.path.join(run.input_checkpoint, "scores.json")) as file:
        scores = json.load(file)

while ropeway.steps_done() < run.total_steps:
    with ropeway.train_step():
        # Seeded by the step, so that a resume sees what it would have seen.
        batch = random.Random(ropeway.steps_done()).choices(PAIRS, k=BATCH)
        loss = 0.0
        for before, after in batch:
            row = scores[before]
            total = sum(math.exp(score) for score in row)
            shares = [math.exp(score) / total for score in row]
            loss -= math.log(shares[after]) / BATCH
            for letter, share in enumerate(shares):
                row[letter] -= options.learning_rate / BATCH * (share - (letter == after))
    ropeway.metric({"loss": loss})
    stop = ropeway.emergency_save_requested()
    if stop or ropeway.steps_done() % 50 == 0:
        with open(os.path.join(ropeway.checkpoint_folder(), "scores.json"), "w") as file:
            json.dump(scores, file)
        ropeway.upload_checkpoint()
    if stop:
        break
