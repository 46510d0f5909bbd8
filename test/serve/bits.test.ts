import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import type { DType } from '../../src/base/dtype.ts'
import { openModel } from '../../src/models/open.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { type Kernels, loadKernels } from '../../src/runtime/kernels.ts'
import { DraftModel } from '../../src/serve/draft-model.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { sharedData } from '../shared.ts'
import { countedModel, ownGoldens, readGolden } from '../train/golden.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'
import { companyOf, difference, type Heard, requestsFor, serveAlone, serveCompany } from './company.ts'

// One seed to replay, or how many seeds to run for each model, format and set of kernels.
const only = process.env.ROPEWAY_BITS_SEED
const seedCount = Number(process.env.ROPEWAY_BITS_SEEDS ?? 1)
const long = only !== undefined || process.env.ROPEWAY_BITS_SEEDS !== undefined
const requestCount = 8

function open(
  folder: string,
  threads: number,
  quantize: DType,
  kernels: Kernels | undefined,
  cacheDtype: DType,
) {
  const device = new Device({ device: 'cpu', threads })
  using model = openModel(folder)
  const weights = loadWeights(model, device, { quantize, kernels })
  const executor = new ModelExecutor(model.definition, weights, device, {
    cacheTokens: 1024,
    cacheDtype,
    kernels: kernels ?? 'ggml',
  })
  return {
    executor,
    [Symbol.dispose]: () => {
      executor.dispose()
      weights[Symbol.dispose]()
      device.dispose()
    },
  }
}

const ours = loadKernels()
if (ours === undefined) console.warn('skipped: our kernels do not run on this machine')
interface Case {
  name: string
  format: DType
  cache: DType
  kernels: Kernels | undefined
  set: 'ours' | 'ggml'
}

/** Layers with a window and without, from a counter. */
const made = temporaryFolder('bits', afterAll)
const gemma3 = countedModel(join(made, 'gemma3'), {
  ...readGolden(join(ownGoldens, 'gemma3_text.json')).config,
  ...{ vocab_size: 128, max_position_embeddings: 512, sliding_window: 24 },
})
/** A mixture of experts in every layer. */
const olmoe = countedModel(join(made, 'olmoe'), {
  ...readGolden(join(ownGoldens, 'olmoe.json')).config,
  ...{ vocab_size: 128, max_position_embeddings: 512, hidden_size: 64, intermediate_size: 96 },
  ...{ num_experts: 5, num_experts_per_tok: 2 },
})
/** The same with sinks, biases, clamped gates and windows. */
const gptOss = countedModel(join(made, 'gpt_oss'), {
  ...readGolden(join(ownGoldens, 'gpt_oss.json')).config,
  ...{ vocab_size: 128, max_position_embeddings: 512, hidden_size: 64, intermediate_size: 96 },
  ...{ head_dim: 16, sliding_window: 24 },
})
const own: Readonly<Record<string, string>> = { gemma3, olmoe, gpt_oss: gptOss }
const folderOf = (name: string) => own[name] ?? sharedData('models', name, 'hf')

const cases = ['stories260K', 'babyllama-char-1M']
  .flatMap((name) =>
    (['F32', 'Q8_0', 'Q4_0'] as const).flatMap((format): Case[] => [
      { name, format, cache: 'F16', kernels: undefined, set: 'ggml' },
      { name, format, cache: 'F16', kernels: ours, set: 'ours' },
    ]),
  )
  // Plain ggml builds many graphs for this; of its formats the others are left to longer runs.
  .filter(
    ({ name, format, set }) => long || set === 'ours' || (name === 'stories260K') === (format === 'F32'),
  )
  .concat(
    (['BF16', 'Q8_0'] as const).flatMap((cache): Case[] => [
      { name: 'stories260K', format: 'Q8_0', cache, kernels: ours, set: 'ours' },
      { name: 'babyllama-char-1M', format: 'BF16', cache, kernels: ours, set: 'ours' },
      { name: 'stories260K', format: 'Q8_0', cache, kernels: undefined, set: 'ggml' },
    ]),
  )
  .concat(
    (['ours', 'ggml'] as const).map(
      (set): Case => ({
        ...{ name: 'gemma3', format: 'F32', cache: 'F16', set },
        kernels: set === 'ours' ? ours : undefined,
      }),
    ),
  )
  .concat(
    (['F32', 'F16', 'BF16', 'Q8_0'] as const).map(
      (format): Case => ({ name: 'olmoe', format, cache: 'F16', set: 'ggml', kernels: undefined }),
    ),
  )
  .concat(
    (['F32', 'Q8_0'] as const).map(
      (format): Case => ({ name: 'olmoe', format, cache: 'F16', set: 'ours', kernels: ours }),
    ),
  )
  .concat(
    (['ours', 'ggml'] as const).flatMap((set) =>
      (['F32', 'MXFP4'] as const).map(
        (format): Case => ({
          ...{ name: 'gpt_oss', format, cache: 'F16', set },
          kernels: set === 'ours' ? ours : undefined,
        }),
      ),
    ),
  )
  .map((one, index) => ({ ...one, index }))
/** Each case meets companies of its own. */
const seedsOf = (index: number) =>
  only === undefined ? Array.from({ length: seedCount }, (_, i) => i * cases.length + index) : [Number(only)]
const seen = { preemptions: 0, held: 0, cachedTokens: 0, guessedTokens: 0, acceptedTokens: 0 }

describe.each(cases)(
  '$name in $format, cache in $cache, on $set',
  ({ name, format, cache, kernels, set, index }) => {
    const folder = folderOf(name)
    const missing = folder === undefined || (set === 'ours' && kernels === undefined)

    test.skipIf(missing)('a request gets the same bits in random company as alone', async () => {
      using one = open(folder!, 1, format, kernels, cache)
      // ggml's own threads meet spinning: on a busy machine two of them take minutes for this.
      const pooled = set === 'ours' && name === 'babyllama-char-1M'
      using two = open(folder!, pooled || long ? 2 : 1, format, kernels, cache)
      const { shape } = one.executor
      const requests = requestsFor(shape, 1, requestCount)
      const alone = new Map<string, Heard>()
      for (const wish of requests) alone.set(wish.id, await serveAlone(one.executor, wish))
      for (const [turn, seed] of seedsOf(index).entries()) {
        const { executor } = [two, one][turn % 2]!
        const served = await serveCompany(executor, companyOf(seed, shape, requests))
        for (const { id } of requests) {
          const found = difference(alone.get(id)!, served.heard.get(id)!)
          expect(found, `ROPEWAY_BITS_SEED=${seed} replays it: ${id}`).toBeUndefined()
        }
        seen.preemptions += served.preemptions
        seen.held += served.held
        for (const what of ['cachedTokens', 'guessedTokens', 'acceptedTokens'] as const)
          seen[what] += served.totals[what]
      }
    })
  },
)

describe.each(cases.filter(({ name, format }) => name === 'babyllama-char-1M' && format === 'Q8_0'))(
  'drafted by itself, $name in $format on $set',
  ({ name, format, cache, kernels, set, index }) => {
    const folder = folderOf(name)
    const missing = folder === undefined || (set === 'ours' && kernels === undefined)

    test.skipIf(missing)(
      'a request gets the bits that it gets alone, and greedy guesses come true',
      async () => {
        using model = open(folder!, 1, format, kernels, cache)
        using draft = open(folder!, 1, format, kernels, cache)
        const { shape } = model.executor
        const guessesMax = 3
        const scratch = DraftModel.scratchBlocks(guessesMax, shape.blockTokens)
        const requests = requestsFor(shape, 1, requestCount)
        const company = companyOf(index, shape, requests)
        const options = { ...company.options, guessesMax, runningMax: 4, stepTokensMax: 40 }
        const most = shape.blockCount - options.runningMax * scratch
        const blockCount = Math.min(company.blockCount, most)
        // Its clock stands still, so it costs nothing and is never switched off for that.
        const proposer = new DraftModel(draft.executor, blockCount, scratch, new ManualClock())
        const served = await serveCompany(model.executor, { ...company, blockCount, options }, proposer)
        for (const wish of requests) {
          const alone = await serveAlone(model.executor, wish)
          expect(difference(alone, served.heard.get(wish.id)!), wish.id).toBeUndefined()
        }
        const greedyOnly = requests.filter(
          ({ sampling, constraint }) => sampling.temperature === 0 && constraint === undefined,
        )
        const again = new DraftModel(draft.executor, most, scratch, new ManualClock())
        const arrivals = greedyOnly.map((request) => ({ at: 0, request }))
        const quick = {
          blockCount,
          options: { ...options, stepTokensMax: 300 },
          arrivals,
          departures: new Map(),
        }
        const { totals } = await serveCompany(model.executor, quick, again)
        expect(totals.guessedTokens).toBeGreaterThan(20)
        expect(totals.acceptedTokens / totals.guessedTokens).toBeGreaterThan(0.97)
      },
    )
  },
)

test.skipIf(only !== undefined || sharedData('models') === undefined)(
  'the companies meet preemption, cached prefixes, masks that come late, and guesses both right and wrong',
  () => {
    expect(seen.preemptions).toBeGreaterThan(0)
    expect(seen.held).toBeGreaterThan(100)
    expect(seen.cachedTokens).toBeGreaterThan(0)
    expect(seen.acceptedTokens).toBeGreaterThan(0)
    expect(seen.guessedTokens).toBeGreaterThan(seen.acceptedTokens)
  },
)
