/**
 * The rival's process. Its documented settings for speed on a CPU: one context with a sequence for each
 * request in flight, batches of 512 tokens over all sequences, as many threads as there are cores, greedy
 * sampling without metadata. The context is made outside the measured time.
 */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { assert } from '../../src/base/assert.ts'
import { messageOf } from '../../src/base/errors.ts'
import type { RivalContext, RivalModel, RivalModule, RivalSequence } from './node-llama-cpp-interface.ts'
import { type Delivery, runWorkload, type Workload } from './workload.ts'

export type ToRival =
  | { type: 'load'; folder: string; modelPath: string; threads: number }
  | { type: 'run'; workload: Workload; flashAttention: boolean }

export type FromRival =
  | { type: 'loaded' }
  | { type: 'ran'; deliveries: readonly Delivery[] }
  | { type: 'failed'; message: string }

interface Prepared {
  key: string
  context: RivalContext
  sequences: RivalSequence[]
}

const batchTokens = 512
let model: RivalModel | undefined
let threads = 1
let prepared: Prepared | undefined

async function load(question: Extract<ToRival, { type: 'load' }>): Promise<FromRival> {
  const entry = join(question.folder, 'node_modules', 'node-llama-cpp', 'dist', 'index.js')
  const { getLlama } = (await import(pathToFileURL(entry).href)) as RivalModule
  threads = question.threads
  const llama = await getLlama({
    gpu: false,
    build: 'never',
    skipDownload: true,
    progressLogs: false,
    logLevel: 'error',
    // No limit beside the context's own: the default would use four threads on two cores.
    maxThreads: 0,
  })
  model = await llama.loadModel({ modelPath: question.modelPath, gpuLayers: 0 })
  return { type: 'loaded' }
}

async function prepare({ items, concurrency }: Workload, flashAttention: boolean): Promise<Prepared> {
  assert(model !== undefined, 'a model is loaded before a workload runs')
  const longest = Math.max(...items.map(({ prompt, outputTokens }) => prompt.length + outputTokens))
  const key = `${longest}/${concurrency}/${flashAttention}`
  if (prepared?.key === key) return prepared
  await prepared?.context.dispose()
  const context = await model.createContext({
    sequences: concurrency,
    // A little more than needed, so that its context shift never comes into play.
    contextSize: longest + 8,
    batchSize: batchTokens,
    threads: { ideal: threads, min: threads },
    flashAttention,
  })
  const sequences = Array.from({ length: concurrency }, () => context.getSequence())
  prepared = { key, context, sequences }
  return prepared
}

async function run(question: Extract<ToRival, { type: 'run' }>): Promise<FromRival> {
  const { sequences } = await prepare(question.workload, question.flashAttention)
  const deliveries = await runWorkload(question.workload, async (item, slot, onToken) => {
    const sequence = sequences[slot]!
    await sequence.clearHistory()
    let left = item.outputTokens
    for await (const _ of sequence.evaluate(item.prompt, { temperature: 0, yieldEogToken: true })) {
      onToken()
      if (--left === 0) break
    }
  })
  return { type: 'ran', deliveries }
}

process.on('disconnect', () => process.exit(0))
process.on('message', (question: ToRival) => {
  const answer = question.type === 'load' ? load(question) : run(question)
  answer
    .catch((error: unknown): FromRival => ({ type: 'failed', message: messageOf(error) }))
    .then((message) => process.send?.(message))
    .catch((error: unknown) => {
      process.stderr.write(`${messageOf(error)}\n`)
      process.exitCode = 1
    })
})
