"""Embeddings of a model as transformers computes them, for test/serve/embeddings.test.ts.

python test/outside/embeddings.py ../shared/data/models/stories260K/hf > test/serve/goldens/embeddings.json
"""
import json
import sys

import torch
from transformers import AutoModel

torch.set_num_threads(1)
model = AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
cases = []
for count in (1, 7, 40):
    tokens = [1] + [3 + (i * 37 + count) % 500 for i in range(count - 1)]
    with torch.no_grad():
        # [tokens, width], behind the last norm
        states = model(torch.tensor([tokens])).last_hidden_state[0]
    unit = lambda vector: [round(x, 7) for x in (vector / vector.norm()).tolist()]
    cases.append({"tokens": tokens, "mean": unit(states.mean(0)), "last": unit(states[-1])})
json.dump(cases, sys.stdout)
