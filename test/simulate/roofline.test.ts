import { expect, test } from 'vitest'
import { accelerators, measuredEfficiencies } from '../../src/serve/simulate/accelerator.ts'
import { layerParameters, type ModelSize, modelSizes } from '../../src/serve/simulate/model-size.ts'
import { Pipeline, Roofline } from '../../src/serve/simulate/roofline.ts'

function gpt(layers: number, hidden: number): ModelSize {
  return { ...modelSizes['175b']!, layers, hidden, heads: 96, keyValueHeads: 96, feedForward: 4 * hidden }
}

function on80gb(model: ModelSize, tensor: number, pipeline = 1): Roofline {
  const accelerator = accelerators['a100-80gb']
  return new Roofline({ model, accelerator, efficiencies: measuredEfficiencies, tensor, pipeline })
}

/** Latency of a batch of equal requests in milliseconds, cut into as many micro-batches as are fastest. */
function latencyMs(roofline: Roofline, batch: number, input: number, output: number): number {
  const { pipeline } = roofline.deployment
  let best = Number.POSITIVE_INFINITY
  for (let pieces = 1; pieces <= Math.min(pipeline, batch); pieces++) {
    const rows = batch / pieces
    const device = new Pipeline(roofline)
    const readyMs = new Array<number>(pieces).fill(0)
    for (let step = 0; step < output; step++) {
      const context = input + step
      const tokens = step === 0 ? rows * input : rows
      const attended = step === 0 ? (rows * input * (input + 1)) / 2 : rows * context
      for (let piece = 0; piece < pieces; piece++) {
        const work = { tokens, attended, cacheRead: rows * context, rows }
        readyMs[piece] = device.pass(work, readyMs[piece]!)
      }
    }
    best = Math.min(best, Math.max(...readyMs))
  }
  return best
}

// FasterTransformer on A100-80GB, from the tables of docs/gpt_guide.md in NVIDIA's repository:
// tensor parts, pipeline stages, batch, input tokens, output tokens, milliseconds.
const published: readonly [ModelSize, readonly (readonly number[])[]][] = [
  [
    gpt(96, 12288),
    [
      [8, 1, 1, 128, 8, 488.86],
      [8, 1, 8, 128, 8, 749.86],
      [8, 1, 32, 128, 8, 1547.44],
      [8, 1, 1, 512, 32, 1719.96],
      [8, 1, 8, 512, 32, 2629.97],
      [8, 1, 16, 512, 32, 3706.23],
    ],
  ],
  [
    gpt(48, 12288),
    [
      [8, 1, 8, 128, 8, 377.5],
      [8, 1, 32, 128, 8, 786.57],
      [8, 1, 1, 512, 32, 887.52],
      [8, 1, 16, 512, 32, 1952.2],
    ],
  ],
  [
    gpt(44, 6144),
    [
      [1, 1, 1, 80, 200, 5609],
      [2, 1, 1, 80, 200, 3532],
      [4, 1, 1, 80, 200, 2438],
      [8, 1, 1, 80, 200, 2053],
      [1, 1, 64, 80, 200, 8290],
      [8, 1, 64, 80, 200, 3173],
      [1, 1, 128, 128, 20, 3830],
      [8, 1, 128, 128, 20, 1072],
    ],
  ],
  [
    { ...gpt(105, 20480), heads: 128, keyValueHeads: 128 },
    [
      [8, 3, 1, 60, 20, 2085],
      [8, 3, 8, 60, 20, 2367],
      [8, 3, 32, 60, 20, 3543],
      [8, 3, 128, 60, 20, 5319],
    ],
  ],
]

test('the cost model gives the latencies that NVIDIA published for its own library', () => {
  const errors: number[] = []
  for (const [model, rows] of published) {
    for (const [tensor, pipeline, batch, input, output, ms] of rows) {
      errors.push(Math.log(latencyMs(on80gb(model, tensor!, pipeline), batch!, input!, output!) / ms!))
    }
  }
  const rms = Math.sqrt(errors.reduce((sum, error) => sum + error * error, 0) / errors.length)
  expect(rms).toBeLessThan(0.12)
  expect(Math.max(...errors.map(Math.abs))).toBeLessThan(0.25)
})

test('the published models have the parameters in their names', () => {
  for (const [name, billions] of [
    ['13b', 13],
    ['101b', 101],
    ['175b', 175],
    ['341b', 341],
  ] as const) {
    expect(Math.abs(layerParameters(modelSizes[name]!) / 1e9 / billions - 1)).toBeLessThan(0.05)
  }
})

test('more bandwidth, more arithmetic, fewer bytes and faster links are never slower', () => {
  const model = modelSizes['175b']!
  const accelerator = accelerators['a100-40gb']
  const works = [1, 8, 64, 512, 4096].map((tokens) => ({
    tokens,
    attended: tokens * 400,
    cacheRead: tokens * 300,
    rows: tokens,
  }))
  const make = (changes: object, share: object = {}, pipeline = 2) =>
    new Roofline({
      model,
      accelerator: { ...accelerator, ...changes },
      efficiencies: { ...measuredEfficiencies, ...share },
      tensor: 8,
      pipeline,
    })
  const plain = make({})
  const better = [
    make({ memoryBytesPerSecond: 2 * accelerator.memoryBytesPerSecond }),
    make({ peakFlops: 2 * accelerator.peakFlops }),
    make({ linkBytesPerSecond: 2 * accelerator.linkBytesPerSecond }),
    make({ networkBytesPerSecond: 2 * accelerator.networkBytesPerSecond }),
    make({}, { hopSeconds: 0 }),
    make({}, { layerSeconds: 0 }),
  ]
  for (const roofline of better) {
    for (const work of works) expect(roofline.iterationMs(work)).toBeLessThanOrEqual(plain.iterationMs(work))
  }
  for (const [i, work] of works.entries()) {
    if (i > 0) expect(plain.iterationMs(work)).toBeGreaterThan(plain.iterationMs(works[i - 1]!))
  }
})

test('two iterations share a pipeline of two stages in less time than one after the other', () => {
  const roofline = new Roofline({
    model: modelSizes['175b']!,
    accelerator: accelerators['a100-40gb'],
    efficiencies: measuredEfficiencies,
    tensor: 8,
    pipeline: 2,
  })
  const work = { tokens: 8, attended: 800, cacheRead: 800, rows: 8 }
  const device = new Pipeline(roofline)
  const oneMs = device.pass(work, 0)
  expect(oneMs).toBeCloseTo(roofline.iterationMs(work), 9)
  expect(device.pass(work, 0)).toBeCloseTo(oneMs + roofline.stageMs(work), 9)
})
