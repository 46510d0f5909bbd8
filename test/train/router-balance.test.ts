/** What keeps experts in use, held to the trace of transformers in which it weighs 0.3 beside the loss. */
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { defineModel } from '../../src/models/registry.ts'
import { LossGraph } from '../../src/train/loss-graph.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { balanceOf } from '../../src/train/router-balance.ts'
import {
  batchOf,
  countedModel,
  device,
  ownGoldens,
  readGolden,
  sequences,
  steps,
  tokens,
  trainerOf,
} from './golden.ts'
import { temporaryFolder } from './temporary-folder.ts'

const golden = readGolden(join(ownGoldens, 'olmoe_balanced.json'))
const folder = countedModel(join(temporaryFolder('balance', afterAll), 'olmoe'), golden.config!)
const { opt, float32: trace } = golden

test.each([
  { how: 'by our kernels', shape: {} },
  { how: 'with activations computed again', shape: { recompute: true } },
  { how: "by ggml's operations", shape: { ownKernels: false } },
])('a model whose balance weighs learns as in transformers, $how', async ({ shape }) => {
  using parameters = loadModel(folder, device)
  using trainer = trainerOf(parameters, opt, { ...shape, routerBalance: opt.balance! })
  for (let step = 0; step < steps; step++) {
    const report = await trainer.step()
    expect(Math.abs(report.loss - trace.losses[step]!), `loss of step ${step}`).toBeLessThan(2e-5)
    const norm = golden.float64.grad_norms[step]!
    expect(Math.abs(report.gradientNorm / norm - 1), `norm of step ${step}`).toBeLessThan(1e-4)
    // Of 8 experts of which a row uses 3: an eighth where use is even, a third where all use the same.
    expect(report.metrics.busiest_expert).toBeGreaterThan(1 / 8)
    expect(report.metrics.busiest_expert).toBeLessThan(1 / 3)
  }
})

test('routers have the gradients that transformers found, which are others without the balance', async () => {
  using parameters = loadModel(folder, device)
  using balanced = trainerOf(parameters, opt, { routerBalance: opt.balance! })
  const norms = await balanced.gradientNorms()
  using unbalanced = trainerOf(parameters, opt, {})
  const without = await unbalanced.gradientNorms()
  for (const [name, expected] of Object.entries(trace.grad_l2_step0)) {
    expect(Math.abs(norms.get(name)! / expected - 1), name).toBeLessThan(1e-4)
    if (name.endsWith('mlp.gate.weight'))
      expect(Math.abs(without.get(name)! / expected - 1), name).toBeGreaterThan(0.05)
  }
})

test('padding counts for nothing', async () => {
  using parameters = loadModel(folder, device)
  const gradients = async (count: number, filler: number) => {
    parameters.clearGradients()
    const batch = { ...batchOf(1000, {}), documents: new Int32Array(sequences * tokens) }
    for (let i = count * tokens; i < batch.ids.length; i++) {
      batch.documents[i] = -1
      batch.weights[i] = 0
      batch.ids[i] = filler
    }
    const shape = { sequences, tokens, packed: true, routerBalance: 0.3 }
    using graph = new LossGraph(parameters, device, shape, 'train')
    await graph.run(batch, 0.01)
    return parameters.all.map(({ gradient }) => gradient.toFloats())
  }
  const [some, others] = [await gradients(2, 3), await gradients(2, 40)]
  for (const [i, values] of some.entries())
    expect(Math.max(...values.map((value, j) => Math.abs(value - others[i]![j]!)))).toBeLessThan(1e-6)
})

test('its weight is what the model says, or what transformers takes', () => {
  const config = (changes: object) => defineModel({ ...golden.config, ...changes }).config
  expect(balanceOf(config({ router_aux_loss_coef: 0.05 }))).toBe(0.05)
  expect(balanceOf(config({ router_aux_loss_coef: undefined }))).toBe(0.01)
})
