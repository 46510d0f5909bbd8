"""By hand: losses and gradients of GRPO by PyTorch's autograd in float64, on the Llama of preferences.py.
Usage: python test/outside/policy.py test/outside/policy.json
The formula is that of the papers, written as a clipped surrogate and differentiated by PyTorch (Ropeway writes the
derivative out): DeepSeekMath (Shao et al. 2024, equations 3 and 4, the divergence estimated by k3), clip-higher and the mean
over tokens of DAPO (Yu et al. 2025, equation 8), the constant divisor of Dr. GRPO (Liu et al. 2025, section 3.2)."""
import contextlib, importlib.util, io, json, math, os, sys
import torch

here = os.path.dirname(os.path.abspath(__file__))
target, sys.argv[1:] = sys.argv[1], [os.devnull]
spec = importlib.util.spec_from_file_location("preferences", os.path.join(here, "preferences.py"))
model = importlib.util.module_from_spec(spec)
with contextlib.redirect_stdout(io.StringIO()):
    spec.loader.exec_module(model)

draw = model.lcg(91)
token = lambda: int(next(draw) * model.VOCAB)
TOKENS_MAX = 8
prompts = [[token() for _ in range(length)] for length in (3, 1)]
lengths = [[4, 8, 2], [5, 1, 7]]
rewards = [[1.0, 0.0, 0.25], [0.0, 1.5, 0.5]]
answers = [
    dict(prompt=len(prompt), tokens=prompt + [token() for _ in range(length)], reward=reward)
    for prompt, group, graded in zip(prompts, lengths, rewards)
    for length, reward in zip(group, graded)
]


def logps(w, answer, temperature):
    ids = torch.tensor(answer["tokens"])
    scores = (model.logits(w, ids) / temperature).log_softmax(-1)
    return scores[:-1].gather(1, ids[1:, None])[answer["prompt"] - 1 :, 0]


# What sampled the answers, and the reference: near the policy, on both sides of the bounds.
with torch.no_grad():
    w = model.weights()
    for answer in answers:
        now = logps(w, answer, 1.0)
        answer["sampled"] = [x + 0.8 * (next(draw) - 0.5) for x in now.tolist()]
        answer["reference"] = [x + 1.2 * (next(draw) - 0.5) for x in now.tolist()]


def advantages(scaled):
    out = []
    for graded in rewards:
        r = torch.tensor(graded)
        a = r - r.mean()
        out += (a / (r.std() + 1e-4) if scaled else a).tolist()
    return out


def loss_of(method, fresh, w):
    total, tokens, clipped = 0.0, sum(map(sum, lengths)), 0
    for answer, advantage in zip(answers, advantages(method["scale_rewards"])):
        now = logps(w, answer, method["temperature"])
        old = now.detach() if fresh else torch.tensor(answer["sampled"])
        ratio = (now - old).exp()
        held = ratio.clamp(1 - method["clip"], 1 + method["clip_high"])
        losses = -torch.minimum(ratio * advantage, held * advantage)
        clipped += int((held * advantage < ratio * advantage).sum())
        if method["beta"] > 0:
            away = torch.tensor(answer["reference"]) - now
            losses = losses + method["beta"] * (away.exp() - away - 1)
        divisor = dict(tokens=tokens, answers=len(losses) * len(answers), constant=TOKENS_MAX * len(answers))
        total = total + losses.sum() / divisor[method["loss"]]
    return total, clipped / tokens


usual = dict(group=3, tokens_max=TOKENS_MAX, temperature=1.0, clip=0.2, clip_high=0.2, beta=0.0, scale_rewards=True, loss="tokens", updates=2, rollouts_kept=0)
cases = []
for fresh, changes in (
    (True, {}),
    (True, dict(beta=0.04, loss="answers")),
    (False, {}),
    (False, dict(clip_high=0.4, beta=0.1)),
    (False, dict(loss="answers", scale_rewards=False)),
    (False, dict(loss="constant", scale_rewards=False, temperature=0.7)),
):
    method = {**usual, **changes}
    w = model.weights()
    loss, clipped = loss_of(method, fresh, w)
    loss.backward()
    norms = {name: w[name].grad.norm().item() for name in w}
    # One gradient number by number: lengths alone would not show a wrong direction.
    one = w["model.layers.0.self_attn.v_proj.weight"].grad.flatten().tolist()
    cases.append(dict(method=method, fresh=fresh, loss=loss.item(), clipShare=clipped, gradientNorms=norms, gradient=one))
    total = math.sqrt(sum(n * n for n in norms.values()))
    print(f"{'first' if fresh else 'later'} step {json.dumps(changes):64s} loss {loss.item():.9f}  gradient {total:.9f}  clipped {clipped:.4f}")
config = dict(layers=model.LAYERS, width=model.WIDTH, heads=model.HEADS, key_value_heads=model.GROUPS, feed_forward=model.INNER)
with open(target, "w") as file:
    json.dump(dict(torch=torch.__version__, vocabulary=model.VOCAB, config=config, answers=answers, cases=cases), file, indent=1)
    file.write("\n")
print("torch", torch.__version__, "float64")
