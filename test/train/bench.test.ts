import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { measure, sizes } from '../../bench/checkpoint-stall.ts'
import { measure as measureData } from '../../bench/data.ts'
import { valuesOf } from '../../bench/harness/bench.ts'
import { cases, estimated, ropeway as trainedInLittle, writeBase } from '../../bench/memory.ts'
import { profileTraining } from '../../bench/profile-training.ts'
import { trainOnce } from '../../bench/shakespeare.ts'
import { shapes, TrainingSide } from '../../bench/train-vs-pytorch.ts'
import { matmulBehind } from '../../src/runtime/kernel-ops.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'

test('our side of train-vs-pytorch measures a speed in wall and in processor time', async () => {
  using side = new TrainingSide(shapes.small!, 1, 'bf16')
  await side.warmUp()
  const figures = await side.measure()
  expect(Object.keys(figures)).toEqual(['tokensPerSecond', 'tokensPerProcessorSecond'])
  expect(Object.values(figures).every((figure) => figure > 0)).toBe(true)
})

test.skipIf(loadKernels() === undefined)(
  'the profile of a step names every part of it, and parts make the whole',
  async () => {
    const { figures } = await profileTraining.run(valuesOf(profileTraining.parameters, 'small'), {
      modelPath: 'none',
      say: () => undefined,
    })
    for (const scene of ['smallBf16', 'smallF32']) {
      const own = Object.entries(figures).filter(
        ([name]) => name.startsWith(scene) && !name.endsWith('FloorMs'),
      )
      const whole = figures[`${scene}WholeMs`]!
      expect(Math.abs(own.reduce((sum, [, ms]) => sum + ms, 0) - 2 * whole)).toBeLessThan(whole / 100)
      for (const part of ['ProductsForward', 'ProductsBack', 'ProductsOfWeights', 'CausalAttention', 'Adamw'])
        for (const figure of ['Ms', 'FloorMs']) expect(figures[`${scene}${part}${figure}`]).toBeGreaterThan(0)
    }
  },
)

test.skipIf(loadKernels() === undefined).each([
  { architecture: 'gpt2', behind: [matmulBehind.gelu, matmulBehind.times] },
  { architecture: 'llama', behind: [matmulBehind.siluMul, matmulBehind.siluMulBack] },
] as const)('activations of $architecture take no pass of their own, either way', async (wanted) => {
  for (const precision of ['bf16', 'f32'] as const) {
    using side = new TrainingSide({ ...shapes.small!, architecture: wanted.architecture }, 1, precision)
    await side.trainer.step()
    const computed = side.trainer.opTimes().filter(({ ms }) => ms > 0)
    expect(computed.map(({ op }) => op).filter((op) => /gelu|silu/.test(op))).toEqual([])
    const behind = new Set(computed.map(({ params }) => params.behind))
    for (const kind of wanted.behind) expect(behind).toContain(kind)
    // Each of a step's products is computed once: a layer's three forward, and for each of them two gradients.
    const products = computed.filter(({ op }) => op.startsWith('matmul_'))
    expect(products).toHaveLength(3 * (wanted.architecture === 'gpt2' ? 5 : 8))
  }
})

test('our side of the memory bench measures speed and peak in a process of its own', () => {
  const base = mkdtempSync(join(tmpdir(), 'ropeway-bench-'))
  try {
    writeBase(base, cases.small!)
    const figures = trainedInLittle(cases.small!, base)
    expect(Object.keys(figures)).toEqual([
      'tokensPerSecond',
      'tokensPerProcessorSecond',
      'peakMiB',
      'besideRuntimeMiB',
    ])
    expect(figures.peakMiB).toBeGreaterThan(figures.besideRuntimeMiB!)
    expect(estimated(cases.small!, base)).toBeGreaterThan(0)
  } finally {
    rmSync(base, { recursive: true, force: true, maxRetries: 9 })
  }
})

test('the data bench measures memory and the first step with an empty and with a full cache', async () => {
  const { cold, warm, check, records, foreseenBytes } = await measureData('records', 1, () => undefined)
  expect(records).toBeGreaterThan(1000)
  for (const { peakBytes, seconds } of [cold, warm, check]) {
    expect(peakBytes).toBeGreaterThan(50e6)
    expect(seconds).toBeGreaterThan(0)
  }
  expect(foreseenBytes).toBeGreaterThan(50e6)
})

test('the Shakespeare bench records the loss, the curve and where it was measured', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-bench-'))
  try {
    writeFileSync(join(folder, 'text.txt'), 'To be, or not to be, that is the question. '.repeat(40))
    const evaluate = { every: 2, batches: 1, final_batches: 2 }
    const run = (signal?: AbortSignal) => {
      const changes = { steps: 4, context: 8, evaluate }
      return trainOnce(join(folder, 'text.txt'), 1, 1, changes, join(folder, 'kept'), signal)
    }
    expect(await run(AbortSignal.abort())).toBeUndefined()
    const record = await run()
    expect(record!.curve.map(([steps]) => steps)).toEqual([2, 4])
    expect(record!.figures.validationLoss).toBeGreaterThan(0)
    expect(record!.setting.commit).toMatch(/^[0-9a-f]+$|unknown/)
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
  }
})

test('the bench of checkpoints counts those that were written beside steps', async () => {
  const figures = await measure(sizes.small)
  expect(figures.checkpoints).toBe(2)
  expect(figures.stallPercent).toBeGreaterThan(0)
})
