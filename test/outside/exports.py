"""By hand: loads what exports.ts exported with transformers and PEFT and compares logits.
Usage: python test/outside/exports.py FOLDER"""
import json, os, sys
import torch, transformers, peft
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
root = os.path.join(sys.argv[1], "exports")
bound = 1e-5
failed = 0
for name in sorted(os.listdir(root)):
    folder = os.path.join(root, name)
    if not os.path.exists(os.path.join(folder, "ropeway-reads.json")):
        continue
    read = json.load(open(os.path.join(folder, "ropeway-reads.json")))
    if name.endswith("-peft"):
        base = json.load(open(os.path.join(folder, "adapter_config.json")))["base_model_name_or_path"]
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([read["tokens"]])).logits[0]
    ours = torch.tensor(read["logits"]).view_as(logits)
    share = ((logits - ours).abs().max() / ours.abs().max()).item()
    good = share <= bound
    failed += not good
    print(f"{name:28s} largest difference {share:.2e} of the largest logit  {'ok' if good else 'TOO FAR'}")
sys.exit(failed)
