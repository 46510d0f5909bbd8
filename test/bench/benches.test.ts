import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { adaptersBench } from '../../bench/adapters.ts'
import { busyNeighbour } from '../../bench/busy-neighbour.ts'
import { constrainBench } from '../../bench/constrain.ts'
import { eventLoop } from '../../bench/event-loop.ts'
import { gatewayBench } from '../../bench/gateway.ts'
import { gpuBench } from '../../bench/gpu.ts'
import { gpuServeBench } from '../../bench/gpu-serve.ts'
import {
  type Bench,
  type BenchRecord,
  measure,
  type Parameters,
  valuesOf,
} from '../../bench/harness/bench.ts'
import { tiny } from '../../bench/harness/model.ts'
import { rivalInstalled } from '../../bench/harness/node-llama-cpp.ts'
import { Ropeway } from '../../bench/harness/ropeway.ts'
import { hostShare } from '../../bench/host-share.ts'
import { iterationsBench } from '../../bench/iterations.ts'
import { listsBench } from '../../bench/lists.ts'
import { makeModel } from '../../bench/make-model.ts'
import { prefix } from '../../bench/prefix.ts'
import { profileBench } from '../../bench/profile.ts'
import { serveAgainst, serveVsNodeLlamaCpp } from '../../bench/serve-vs-node-llama-cpp.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-bench-'))
const modelPath = join(scratch, 'tiny.gguf')

beforeAll(() => makeModel(modelPath, tiny))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))

const text = z.string().min(1)
const finite = z.number()
const spread = z.strictObject({ median: finite, min: finite, max: finite })

const recordSchema = z.strictObject({
  bench: text,
  size: z.enum(['small', 'large', 'custom']),
  parameters: z.record(text, finite),
  figures: z.record(text, finite),
  comparisons: z.array(
    z.strictObject({
      figure: text,
      sides: z.tuple([text, text]),
      values: z.array(z.tuple([finite, finite])).min(1),
      ratio: spread.refine(({ median, min, max }) => min <= median && median <= max),
    }),
  ),
  chosen: z.record(text, text).optional(),
  setting: z.strictObject({
    date: z.iso.datetime(),
    commit: text,
    changed: z.boolean(),
    model: text,
    machine: z.strictObject({
      cpu: text,
      cores: finite,
      memoryGiB: finite,
      instructionSets: z.array(text),
      loadBefore: finite,
      loadAfter: finite,
    }),
    versions: z.looseObject({ node: text, ropeway: text, '@node-llama-cpp/linux-x64': text }),
  }),
})

/** The record of a small run, as it would be read back from the file of results. */
async function smallRecord<P extends Parameters>(bench: Bench<P>): Promise<BenchRecord> {
  const record = await measure(bench, 'small', valuesOf(bench.parameters, 'small'), {
    modelPath,
    say: () => undefined,
  })
  return JSON.parse(JSON.stringify(record)) as BenchRecord
}

const figuresOf = (record: BenchRecord) => [
  ...Object.keys(record.figures),
  ...record.comparisons.map(({ figure }) => figure),
]

const served = [
  'aloneDecodeTokensPerSecond',
  'togetherOutputTokensPerSecond',
  'togetherDecodeTokensPerSecond',
  'togetherFirstTokenMedianMs',
  'mixedOutputTokensPerSecond',
  'mixedLatencyPerTokenMs',
]

describe('a bench at its small size gives a complete record', () => {
  test('serve-vs-node-llama-cpp, here with another Ropeway in the place of the rival', async () => {
    const bench = serveAgainst((threads) => Ropeway.start({ modelPath, threads }))
    const record = recordSchema.parse(await smallRecord(bench))
    expect(figuresOf(record as BenchRecord)).toEqual(served)
  })

  const installed = rivalInstalled()
  if (!installed) console.warn('skipped: node-llama-cpp is not installed in the bench cache')
  test.runIf(installed)('serve-vs-node-llama-cpp, with node-llama-cpp itself', async () => {
    const record = recordSchema.parse(await smallRecord(serveVsNodeLlamaCpp))
    expect(Object.keys(record.chosen ?? {})).toEqual(['threads', 'alone', 'together', 'mixed'])
    expect(record.comparisons[0]!.sides).toEqual(['ropeway', 'node-llama-cpp'])
  })

  test('host-share', async () => {
    const record = recordSchema.parse(await smallRecord(hostShare))
    expect(Object.keys(record.figures)).toEqual([
      ...[1, 2, 3].flatMap((running) => [
        `iterationMs@${running}`,
        `outsideMs@${running}`,
        `outsidePercent@${running}`,
        `hostPercent@${running}`,
      ]),
      ...['residentMiB', 'weightsMiB', 'cacheMiB', 'besideWeightsAndCacheMiB'],
    ])
  })

  test('prefix, whose cached tokens are all but one copy of the shared prefix', async () => {
    const record = recordSchema.parse(await smallRecord(prefix))
    expect(figuresOf(record as BenchRecord)).toContain('firstTokenMedianMs')
    // Three of four measured streams and one of two that warm up take 48 tokens from the cache.
    expect(record.figures.cachedTokens).toBe(4 * 48)
  })

  test('adapters', async () => {
    const record = recordSchema.parse(await smallRecord(adaptersBench))
    const compared = [
      'decode1Rank8 1 adapters / no adapters',
      'decode4Rank8 1 adapters / no adapters',
      'decode4Rank8 2 adapters / 1 adapters',
      'prompt8Rank8 1 adapters / no adapters',
      'prompt8Rank8 2 adapters / 1 adapters',
    ]
    expect(record.comparisons.map(({ figure, sides }) => `${figure} ${sides.join(' / ')}`)).toEqual(
      compared.flatMap((one) =>
        ['IterationMs', 'ProcessorMs'].map((measure) => one.replace('Rank8', `Rank8${measure}`)),
      ),
    )
    expect(record.figures.rank8AdapterMiB).toBeGreaterThan(0)
  })

  test.skipIf(loadKernels() === undefined)('iterations', async () => {
    const record = recordSchema.parse(await smallRecord(iterationsBench))
    expect(record.comparisons.map(({ figure, sides }) => [figure, ...sides])).toEqual([
      ...['prompt24', 'decode3', 'decode2', 'decode1'].map((name) => [
        `${name}TokensPerSecond`,
        'ropeway',
        'plain ggml',
      ]),
      ['decode1TokensPerSecond', 'ropeway', 'plain read of the weights'],
    ])
  })

  test('gpu, here with the CPU by plain ggml in the place of a GPU', async () => {
    const record = recordSchema.parse(await smallRecord(gpuBench))
    expect(record.comparisons.map(({ figure, sides }) => [figure, ...sides])).toEqual(
      ['prompt24', 'decode3', 'decode1'].map((name) => [`${name}TokensPerSecond`, 'gpu', 'cpu']),
    )
  })

  test('gpu-serve', async () => {
    const record = recordSchema.parse(await smallRecord(gpuServeBench))
    expect(record.figures['outputTokensPerSecond@3']).toBeGreaterThan(0)
  })

  test.skipIf(loadKernels() === undefined)('profile', async () => {
    const { figures } = recordSchema.parse(await smallRecord(profileBench))
    for (const scene of ['prompt24', 'decode3', 'decode1']) {
      const parts = ['QueryKeyValue', 'GateUp', 'OutDown', 'Head', 'PagedAttention', 'Between', 'Host']
      const sum = parts.reduce((sum, part) => sum + figures[`${scene}${part}Ms`]!, 0)
      expect(sum).toBeGreaterThan(0)
      expect(sum).toBeLessThanOrEqual(figures[`${scene}WholeMs`]! * 1.01)
      expect(figures[`${scene}HeadFloorMs`]).toBeGreaterThan(0)
    }
  })

  test('lists', async () => {
    const record = recordSchema.parse(await smallRecord(listsBench))
    const names = ['keys', 'credentials', 'audit', 'events', 'jobs', 'jobsOfSeveralStates']
    expect(Object.keys(record.figures)).toEqual(
      expect.arrayContaining(names.flatMap((name) => [`libsql.${name}.p50Ms`, `libsql.${name}.p99Ms`])),
    )
  })

  test('constrain', async () => {
    const { figures } = recordSchema.parse(await smallRecord(constrainBench))
    expect(figures.boundedStringsMostMs).toBeGreaterThan(0)
    expect(figures.boundedStringsInsideWalkedMedianMs).toBeGreaterThan(0)
    expect(figures.longestPauseMs).toBeLessThanOrEqual(figures.readyElsewhereMs!)
  })

  test('event-loop', async () => {
    const record = recordSchema.parse(await smallRecord(eventLoop))
    expect(record.figures.fullDelayP99Ms).toBeGreaterThanOrEqual(record.figures.fullDelayP50Ms!)
    expect(record.figures.outputTokensPerSecond).toBeGreaterThan(0)
    expect(record.figures.events).toBeGreaterThan(0)
  })

  test('gateway, whose streams are all complete and all billed', async () => {
    const record = recordSchema.parse(await smallRecord(gatewayBench))
    expect(record.comparisons.map(({ figure }) => figure)).toEqual([
      ...['firstMs', 'totalMs', 'engineFirstMs', 'engineTotalMs'],
    ])
    const { requests, outputTokens, engineRequests, streams, streamTokens } = record.parameters
    expect(record.figures.crowdComplete).toBe(streams)
    expect(record.figures.crowdEvents).toBe(streams! * (streamTokens! + 1))
    // Both probes of the replica warm up with as many requests again, and so does the engine's.
    const probed = 2 * (2 * requests! + engineRequests!) * outputTokens!
    expect(record.figures.billedTokens).toBe(probed + streams! * streamTokens!)
  })

  test('busy-neighbour', async () => {
    const record = recordSchema.parse(await smallRecord(busyNeighbour))
    expect(record.comparisons.map(({ figure, sides }) => [figure, ...sides])).toEqual([
      ['decodeTokensPerSecond@1threads', 'busy', 'quiet'],
    ])
  })
})

test('every committed result of these benches is complete and was measured on the 0.5B model', () => {
  const folder = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'bench', 'results')
  const names = [
    ...[
      serveVsNodeLlamaCpp,
      hostShare,
      prefix,
      adaptersBench,
      iterationsBench,
      profileBench,
      eventLoop,
      busyNeighbour,
      gatewayBench,
      gpuServeBench,
    ],
  ].map(({ name }) => name)
  const files = existsSync(folder) ? readdirSync(folder) : []
  for (const name of names.filter((name) => files.includes(`${name}.jsonl`))) {
    for (const line of readFileSync(join(folder, `${name}.jsonl`), 'utf8')
      .trim()
      .split('\n')) {
      const record = recordSchema.parse(JSON.parse(line))
      expect(record.bench).toBe(name)
      expect(record.setting.model).toBe('random-0.5b-q8_0.gguf')
    }
  }
})
