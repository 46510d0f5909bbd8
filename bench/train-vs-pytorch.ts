/**
 * Training tokens per second against PyTorch on the same shapes, both sides in turns. A machine that is shared changes
 * its pace within seconds, so both are started once, and rounds are short and many. PyTorch comes from outside:
 * `npx tsx bench/train-vs-pytorch.ts --python PATH [--shape shakespeare|gpt2|llama|grouped] [--pairs 9] [--out FILE]`
 */
import { spawn } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { UserError } from '../src/base/errors.ts'
import { Device } from '../src/runtime/device.ts'
import type { Precision } from '../src/runtime/op-maker.ts'
import { modelConfig } from '../src/train/model-config.ts'
import { createModel, type Parameters } from '../src/train/parameters.ts'
import { Trainer } from '../src/train/trainer.ts'
import { RandomWindows } from '../src/train/windows.ts'
import { interleave, type Measured } from './harness/comparison.ts'
import { describeSetting } from './harness/machine.ts'

export interface Shape {
  architecture: 'gpt2' | 'llama'
  layers: number
  width: number
  heads: number
  /** As many as heads where left out. */
  keyValueHeads?: number
  feedForward: number
  vocabulary: number
  batch: number
  context: number
  warmup: number
  steps: number
}

export const shapes: Record<string, Shape> = {
  /** Runs in `npm test`. */
  small: {
    ...{ architecture: 'llama', layers: 1, width: 16, heads: 2, feedForward: 32, vocabulary: 40 },
    ...{ batch: 2, context: 8, warmup: 1, steps: 2 },
  },
  /** nanoGPT's shakespeare_char for a CPU. */
  shakespeare: {
    ...{ architecture: 'gpt2', layers: 4, width: 128, heads: 4, feedForward: 512, vocabulary: 65 },
    ...{ batch: 12, context: 64, warmup: 5, steps: 60 },
  },
  /** Where products weigh most: 21 million parameters in the layers. */
  gpt2: {
    ...{ architecture: 'gpt2', layers: 12, width: 384, heads: 6, feedForward: 1536, vocabulary: 65 },
    ...{ batch: 16, context: 256, warmup: 1, steps: 3 },
  },
  llama: {
    ...{ architecture: 'llama', layers: 6, width: 256, heads: 8, feedForward: 704, vocabulary: 2048 },
    ...{ batch: 8, context: 256, warmup: 1, steps: 4 },
  },
  /** Four query heads to one of keys and values. */
  grouped: {
    ...{ architecture: 'llama', layers: 6, width: 256, heads: 8, keyValueHeads: 2, feedForward: 704 },
    ...{ vocabulary: 2048, batch: 8, context: 256, warmup: 1, steps: 4 },
  },
}

/** Our side: a model of random weights, ready to train. */
export class TrainingSide implements Disposable {
  readonly trainer: Trainer
  readonly #shape: Shape
  readonly #device: Device
  readonly #parameters: Parameters

  constructor(shape: Shape, threads: number, precision: Precision) {
    this.#shape = shape
    this.#device = new Device({ device: 'cpu', threads })
    this.#device.keepThreads()
    const { feedForward: feed_forward, keyValueHeads: key_value_heads = shape.heads } = shape
    const sizes = { ...shape, feed_forward, key_value_heads, bias: false, tied: true }
    const special = { vocabularySize: shape.vocabulary, bosToken: undefined, eosToken: 0 }
    this.#parameters = createModel(modelConfig(sizes, shape.context, special), 1337, this.#device)
    const stream = Int32Array.from({ length: 100_000 }, (_, i) => (i * 7919) % shape.vocabulary)
    const source = new RandomWindows(stream, shape.batch, shape.context, 1337)
    this.trainer = new Trainer(this.#parameters, this.#device, source, {
      shape: { sequences: shape.batch, tokens: shape.context, precision },
      accumulate: 1,
      optimizer: { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1 },
      schedule: { kind: 'constant', learningRate: 1e-3, learningRateMin: 0, warmupSteps: 0, decaySteps: 1 },
    })
  }

  get parameterCount(): number {
    return this.#parameters.all.reduce((sum, { weight }) => sum + weight.size, 0)
  }

  async warmUp(): Promise<void> {
    for (let i = 0; i < this.#shape.warmup; i++) await this.trainer.step()
  }

  async measure(): Promise<Measured> {
    const { batch, context, steps } = this.#shape
    const [startedMs, processor] = [performance.now(), process.cpuUsage()]
    for (let i = 0; i < steps; i++) await this.trainer.step()
    const seconds = (performance.now() - startedMs) / 1000
    const { user, system } = process.cpuUsage(processor)
    const tokens = batch * context * steps
    return { tokensPerSecond: tokens / seconds, tokensPerProcessorSecond: tokens / ((user + system) / 1e6) }
  }

  [Symbol.dispose](): void {
    this.trainer.dispose()
    this.#parameters[Symbol.dispose]()
    this.#device[Symbol.dispose]()
  }
}

/** PyTorch with a model of the same shape in a process of its own, which computes a round for every line it reads. */
class PytorchSide implements Disposable {
  version = 'unknown'
  readonly #child
  readonly #lines: AsyncIterator<string>

  constructor(python: string, shape: Shape, threads: number, precision: Precision) {
    const script = join(import.meta.dirname, 'train-vs-pytorch.py')
    const spec = JSON.stringify({ ...shape, threads, precision })
    this.#child = spawn(python, [script, spec], { stdio: ['pipe', 'pipe', 'inherit'] })
    // A process that could not start, or ended, has no lines: `measure` says so.
    this.#child.on('error', (error) => process.stderr.write(`${error}\n`))
    this.#child.stdin.on('error', () => undefined)
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  async measure(): Promise<Measured> {
    this.#child.stdin.write('round\n')
    const line = await this.#lines.next()
    if (line.done) throw new UserError('PyTorch did not run.', { fix: 'See what it says above.' })
    const { torch, tokensPerSecond, tokensPerProcessorSecond } = JSON.parse(line.value)
    this.version = torch
    return { tokensPerSecond, tokensPerProcessorSecond }
  }

  [Symbol.dispose](): void {
    this.#child.stdin.end()
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      python: { type: 'string', default: 'python3' },
      shape: { type: 'string', default: 'shakespeare' },
      pairs: { type: 'string', default: '9' },
      threads: { type: 'string', default: '1' },
      precision: { type: 'string', default: 'f32' },
      out: { type: 'string' },
    },
  })
  const shape = shapes[values.shape]
  if (shape === undefined) throw new UserError(`--shape is one of ${Object.keys(shapes).join(', ')}.`)
  const [threads, pairs] = [Number(values.threads), Number(values.pairs)]
  const precision: Precision = values.precision === 'bf16' ? 'bf16' : 'f32'
  const setting = describeSetting(values.shape)
  using ours = new TrainingSide(shape, threads, precision)
  await ours.warmUp()
  using theirs = new PytorchSide(values.python, shape, threads, precision)
  // Its first round is the one behind which it has started.
  await theirs.measure()
  const comparisons = await interleave(
    pairs,
    { name: 'ropeway', run: () => ours.measure() },
    { name: 'pytorch', run: () => theirs.measure() },
    (line) => process.stderr.write(`${line}\n`),
  )
  const record = {
    bench: 'train-vs-pytorch',
    parameters: { ...shape, shape: values.shape, threads, pairs, precision },
    comparisons,
    setting: setting.end({ torch: theirs.version }),
  }
  process.stdout.write(`${JSON.stringify(record)}\n`)
  if (values.out !== undefined) appendFileSync(values.out, `${JSON.stringify(record)}\n`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
