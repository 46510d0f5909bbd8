/**
 * The executor on a GPU: any that a package finds here, else Vulkan's driver that computes on the CPU (Mesa's lavapipe).
 * Needs `npm install --no-save @node-llama-cpp/linux-x64-vulkan@3.22.1`, libvulkan1 and mesa-vulkan-drivers.
 */
import { readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import { openModel } from '../../src/models/open.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { Graph, GraphMemory } from '../../src/runtime/graph.ts'
import type { SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { sharedData } from '../shared.ts'

// ggml passes over Vulkan's drivers that compute on the CPU unless they are named.
process.env.GGML_VK_VISIBLE_DEVICES ??= '0'

function findGpu(): Device | undefined {
  try {
    return new Device({ device: 'gpu', threads: 1 })
  } catch (error) {
    console.warn(`skipped: ${error instanceof Error ? error.message : error}`)
    return undefined
  }
}

const gpu = findGpu()
// Mesa 22.3's corrupts the heap where graphs of several shapes take turns, whoever plans their memory.
const corrupting = gpu?.description.includes('llvmpipe') === true
if (corrupting) console.warn('skipped: models on llvmpipe, which does not survive graphs of several shapes')
const cpu = new Device({ device: 'cpu', threads: 1 })
afterAll(() => {
  gpu?.dispose()
  cpu.dispose()
})

interface Case {
  prompt_ids: number[]
  greedy_ids: number[]
}

const folder = sharedData('models', 'stories260K', 'hf')
const referencePath = sharedData('models', 'stories260K', 'reference.json')
const cases: Case[] = referencePath ? JSON.parse(readFileSync(referencePath, 'utf8')).cases : []

function open(device: Device, quantize: DType, cacheDtype: DType) {
  using model = openModel(folder!)
  const weights = loadWeights(model, device, { quantize, kernels: undefined })
  const executor = new ModelExecutor(model.definition, weights, device, {
    cacheTokens: 1280,
    cacheDtype,
    kernels: 'ggml',
  })
  return {
    executor,
    [Symbol.dispose]: () => {
      executor.dispose()
      weights[Symbol.dispose]()
    },
  }
}

/** Every eighth block from `first` on, so that no request's blocks lie side by side. */
const blocksOf = (first: number) => Array.from({ length: 10 }, (_, i) => first + i * 8)

/** Prompts of different lengths that begin in different iterations, one token each from then on. */
async function together(executor: ModelExecutor, prompts: readonly number[][], count: number) {
  const texts = prompts.map((): number[] => [])
  const works = prompts.map(
    (tokens, i): SequenceWork => ({ blocks: blocksOf(i), start: 0, tokens, outputs: 1 }),
  )
  for (let turn = 0; texts.some((text) => text.length < count); turn++) {
    const running = works.map((_, i) => i).filter((i) => i <= turn && texts[i]!.length < count)
    const output = await executor.execute({ sequences: running.map((i) => works[i]!) })
    for (const [row, i] of running.entries()) {
      const next = output.argmax(row)
      const logits = output.logits(row)
      expect(logits[next]).toBe(Math.max(...logits))
      texts[i]!.push(next)
      const { start, tokens } = works[i]!
      works[i] = { ...works[i]!, start: start + tokens.length, tokens: [next] }
    }
  }
  return texts
}

describe.skipIf(gpu === undefined)('on a GPU', () => {
  test('graphs that share memory are computed without a scheduler, each with its own values', () => {
    using memory = new GraphMemory(gpu!)
    const make = (factor: number, length: number) => {
      const graph = new Graph(gpu!, 16, 4, { memory })
      const x = graph.input('F32', [length], 'x')
      const y = graph.output(graph.ops.scale(x, factor))
      graph.allocate()
      x.write(new Float32Array(length).fill(1))
      return { graph, y }
    }
    const large = make(2, 100)
    const small = make(3, 10)
    expect(large.graph.scratchBytes).toBeGreaterThan(0)
    for (const [{ graph, y }, value] of [
      [large, 2],
      [small, 3],
      [large, 2],
    ] as const) {
      graph.compute()
      expect(new Set(y.toFloats())).toEqual(new Set([value]))
    }
    for (const { graph } of [large, small]) graph.dispose()
  })

  describe.skipIf(folder === undefined || corrupting)('stories260K', () => {
    test.each(['F32', 'F16'] as const)(
      'writes the reference’s 64 greedy tokens, cache in %s',
      async (cache) => {
        using model = open(gpu!, 'F32', cache)
        for (const { prompt_ids, greedy_ids } of cases)
          expect(await together(model.executor, [prompt_ids], 64)).toEqual([greedy_ids])
      },
    )

    test.skipIf(corrupting)(
      'writes them in company too: eight requests of different lengths that come one after another',
      async () => {
        using model = open(gpu!, 'F32', 'F16')
        const company = Array.from({ length: 8 }, (_, i) => cases[i % cases.length]!)
        const texts = await together(
          model.executor,
          company.map(({ prompt_ids }) => prompt_ids),
          64,
        )
        expect(texts).toEqual(company.map(({ greedy_ids }) => greedy_ids))
      },
    )

    test.each([
      ['F32', 'F32', 0.05],
      ['F32', 'Q8_0', 1],
      ['Q8_0', 'F16', 1],
    ] as const)(
      'weights in %s, cache in %s: logits are the CPU’s within %d',
      async (quantize, cache, most) => {
        using here = open(gpu!, quantize, cache)
        using there = open(cpu, quantize, cache)
        const tokens = [1, ...Array.from({ length: 99 }, (_, i) => 3 + ((i * 37) % 500))]
        const work = { blocks: blocksOf(0), start: 0, tokens, outputs: 100 }
        const outputs = await Promise.all(
          [here, there].map(({ executor }) => executor.execute({ sequences: [work] })),
        )
        let furthest = 0
        for (let row = 0; row < 100; row++) {
          const [ours, theirs] = outputs.map((output) => output.logits(row))
          for (const [i, logit] of ours!.entries())
            furthest = Math.max(furthest, Math.abs(logit - theirs![i]!))
        }
        expect(furthest).toBeLessThan(most)
      },
    )
  })
})
