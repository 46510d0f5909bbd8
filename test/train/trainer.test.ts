import { afterAll, expect, test } from 'vitest'
import { Device } from '../../src/runtime/device.ts'
import { LossGraph } from '../../src/train/loss-graph.ts'
import { modelConfig } from '../../src/train/model-config.ts'
import type { Objective } from '../../src/train/objective.ts'
import { createModel, type Parameters } from '../../src/train/parameters.ts'
import { type StepFault, Trainer, type TrainerOptions } from '../../src/train/trainer.ts'
import { RandomWindows } from '../../src/train/windows.ts'

const one = new Device({ device: 'cpu', threads: 1 })
const two = new Device({ device: 'cpu', threads: 2 })
afterAll(() => {
  one.dispose()
  two.dispose()
})
const tokens = 10
const stream = Int32Array.from({ length: 500 }, (_, i) => (i * i + 3 * i) % 23)
const sizes = { architecture: 'llama' as const, layers: 2, width: 24, heads: 4, bias: false, tied: true }
const config = modelConfig({ ...sizes, key_value_heads: 2 }, tokens, {
  vocabularySize: 23,
  bosToken: undefined,
  eosToken: 0,
})

function trainer(
  parameters: Parameters,
  device: Device,
  rows: number,
  changes: Partial<TrainerOptions> = {},
) {
  return new Trainer(parameters, device, new RandomWindows(stream, rows, tokens, 5), {
    shape: { sequences: rows, tokens },
    accumulate: 1,
    optimizer: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1 },
    schedule: { kind: 'constant', learningRate: 3e-3, learningRateMin: 0, warmupSteps: 0, decaySteps: 1 },
    ...changes,
  })
}

async function trained(device: Device, rows: number, accumulate: number) {
  using parameters = createModel(config, 7, device)
  using run = trainer(parameters, device, rows, { accumulate })
  const losses: number[] = []
  for (let step = 0; step < 8; step++) losses.push((await run.step()).loss)
  return { losses, weights: parameters.all.map(({ weight }) => [...weight.toFloats()]) }
}

test('eight rows at once, four times two and eight times one learn the same', async () => {
  const whole = await trained(one, 8, 1)
  for (const [rows, accumulate] of [
    [2, 4],
    [1, 8],
  ] as const) {
    const parts = await trained(one, rows, accumulate)
    for (const [step, loss] of parts.losses.entries()) expect(loss).toBeCloseTo(whole.losses[step]!, 5)
  }
  expect(whole.losses.at(-1)!).toBeLessThan(whole.losses[0]!)
})

test('the number of threads does not change a bit', async () => {
  expect(await trained(two, 4, 2)).toEqual(await trained(one, 4, 2))
})

test('an evaluation changes nothing that the run computes', async () => {
  using parameters = createModel(config, 7, one)
  using run = trainer(parameters, one, 8)
  const losses: number[] = []
  for (let step = 0; step < 8; step++) {
    await run.evaluate(new RandomWindows(stream, 8, tokens, 1), 2)
    losses.push((await run.step()).loss)
  }
  expect(losses).toEqual((await trained(one, 8, 1)).losses)
})

test('a step whose loss is no number is passed over and leaves weights and moments as they were', async () => {
  using parameters = createModel(config, 7, one)
  const spoilt = parameters.weight('model.layers.1.mlp.up_proj.weight')
  const values = spoilt.toFloats()
  values[3] = Number.POSITIVE_INFINITY
  spoilt.write(values)
  const state = () => parameters.all.flatMap(({ weight, mean }) => [...weight.toFloats(), ...mean.toFloats()])
  const before = state()
  const faults: StepFault[] = []
  using run = trainer(parameters, one, 4, {
    onFault: (fault) => faults.push(fault),
    faults: { spike_factor: 0, skips: 1, rollbacks: 1 },
  })
  const outcomes = []
  for (let step = 0; step < 4; step++) outcomes.push((await run.step()).outcome)
  expect(outcomes).toEqual(['skipped', 'rolled_back', 'skipped', 'stopped'])
  expect(faults.map(({ step, kind, action }) => [step, kind, action])).toEqual(
    outcomes.map((action, step) => [step, 'not_a_number', action]),
  )
  expect(faults[0]!.samples).toHaveLength(4)
  expect(faults[0]!.samples[0]).toMatch(/^tokens \d+-\d+ of the training text$/)
  expect(state()).toEqual(before)
})

test('a fault of the machine that does not come twice is computed again and leaves no trace', async () => {
  const clean = await trained(one, 4, 1)
  using parameters = createModel(config, 7, one)
  let runs = 0
  const objective: Objective = {
    count: (batch) => batch.ids.length,
    graph: (...given) => {
      const graph = new LossGraph(...given)
      return {
        get scratchBytes() {
          return graph.scratchBytes
        },
        run: async (batch, scale) => {
          const loss = await graph.run(batch, scale)
          return ++runs === 3 ? Number.NaN : loss
        },
        dispose: () => graph.dispose(),
        [Symbol.dispose]: () => graph.dispose(),
      }
    },
  }
  const faults: StepFault[] = []
  using run = trainer(parameters, one, 4, { objective, onFault: (fault) => faults.push(fault) })
  const losses: number[] = []
  for (let step = 0; step < 8; step++) losses.push((await run.step()).loss)
  expect(faults.map(({ step, kind, action }) => [step, kind, action])).toEqual([
    [2, 'not_a_number', 'recomputed'],
  ])
  expect(losses).toEqual(clean.losses)
  expect(parameters.all.map(({ weight }) => [...weight.toFloats()])).toEqual(clean.weights)
})

test('weights that decay without gradient shrink, norms do not', async () => {
  using parameters = createModel(config, 7, one)
  const lengthOf = (name: string) => Math.hypot(...parameters.weight(name).toFloats())
  const names = ['model.layers.0.mlp.up_proj.weight', 'model.norm.weight'] as const
  const before = names.map(lengthOf)
  // So large an epsilon leaves nothing of the gradient, only the decay.
  const optimizer = { beta1: 0, beta2: 0, epsilon: 1e9, weightDecay: 0.5, clipNorm: 1 }
  const schedule = {
    kind: 'constant' as const,
    learningRate: 0.1,
    learningRateMin: 0,
    warmupSteps: 0,
    decaySteps: 1,
  }
  using run = trainer(parameters, one, 4, { optimizer, schedule })
  await run.step()
  expect(lengthOf(names[0]) / before[0]!).toBeCloseTo(1 - 0.1 * 0.5, 5)
  expect(lengthOf(names[1]) / before[1]!).toBeCloseTo(1, 5)
})
