/**
 * Memory at its peak and tokens per second of a whole model in training, of adapters, and of adapters beside a base in
 * Q8_0 and Q4_0, against plain PyTorch in turns, each run in a process of its own; and of a head with Qwen's vocabulary,
 * in chunks and in one piece. PyTorch comes from outside:
 * `npx tsx bench/memory.ts --python PATH --case lora-q8_0 [--pairs 3] [--threads 2] [--out FILE]`
 */
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { UserError } from '../src/base/errors.ts'
import { writeSafetensors } from '../src/formats/safetensors-write.ts'
import { Device } from '../src/runtime/device.ts'
import type { Precision } from '../src/runtime/op-maker.ts'
import { parseTrainingJob } from '../src/train/job.ts'
import { modelConfig } from '../src/train/model-config.ts'
import { createModel } from '../src/train/parameters.ts'
import { estimateMemory } from '../src/train/preflight/memory.ts'
import { Snapshot } from '../src/train/snapshot.ts'
import { interleave, type Measured, rounded } from './harness/comparison.ts'
import { describeSetting } from './harness/machine.ts'

export interface MemoryCase {
  layers: number
  width: number
  heads: number
  feedForward: number
  vocabulary: number
  batch: number
  context: number
  warmup: number
  steps: number
  threads: number
  precision: Precision
  /** What is trained: every weight, or adapters of rank 16 beside a base in that format. */
  method: 'full' | 'lora-f32' | 'lora-bf16' | 'lora-q8_0' | 'lora-q4_0'
  /** 0 leaves it to the trainer. */
  logitsBytesMax: number
}

const large: Omit<MemoryCase, 'method'> = {
  ...{ layers: 8, width: 768, heads: 12, feedForward: 2048, vocabulary: 4096 },
  ...{ batch: 4, context: 256, warmup: 1, steps: 3, threads: 2, precision: 'f32', logitsBytesMax: 0 },
}
const words = { ...large, layers: 2, width: 256, heads: 4, feedForward: 768, vocabulary: 151_936 }
const tiny = {
  ...large,
  layers: 1,
  width: 32,
  heads: 2,
  feedForward: 64,
  vocabulary: 40,
  batch: 2,
  context: 8,
}

export const cases: Readonly<Record<string, MemoryCase>> = {
  /** Runs in `npm test`. */
  small: { ...tiny, method: 'lora-q8_0', steps: 1 },
  full: { ...large, method: 'full' },
  'full-bf16': { ...large, method: 'full', precision: 'bf16' },
  'lora-f32': { ...large, method: 'lora-f32' },
  'lora-bf16': { ...large, method: 'lora-bf16', precision: 'bf16' },
  'lora-q8_0': { ...large, method: 'lora-q8_0', precision: 'bf16' },
  'lora-q4_0': { ...large, method: 'lora-q4_0', precision: 'bf16' },
  /** Qwen's vocabulary: logits of 2,048 rows are 1.2 GB, and a loss has three matrices of that size. */
  vocabulary: { ...words, method: 'full', batch: 8, warmup: 1, steps: 1 },
}
/** Nothing is in chunks then. */
const onePiece = 2 ** 40

const rope = { eosToken: 0, bosToken: undefined }

/** A random base as a folder in Hugging Face's layout. */
export function writeBase(folder: string, given: MemoryCase): void {
  using device = new Device({ device: 'cpu', threads: 1 })
  const sizes = {
    ...{ architecture: 'llama' as const, layers: given.layers, width: given.width, heads: given.heads },
    ...{ feed_forward: given.feedForward, bias: false, tied: true },
  }
  const config = modelConfig(sizes, given.context, { ...rope, vocabularySize: given.vocabulary })
  using parameters = createModel(config, 1337, device)
  const snapshot = new Snapshot(parameters, 'weights')
  snapshot.take()
  mkdirSync(folder, { recursive: true })
  const { weightsName, description } = parameters.saved
  writeSafetensors(join(folder, weightsName), snapshot.weights())
  writeFileSync(join(folder, description.name), description.content)
}

/** What preflight says of it, without the process and without copies for checkpoints, in MiB. */
export function estimated(given: MemoryCase, base: string): number {
  const { method, batch, context, precision, vocabulary } = given
  const job = parseTrainingJob(
    {
      model: { from: base },
      ...(method !== 'full' && { method: { lora: { rank: 16, quantize: method.slice('lora-'.length) } } }),
      data: { text: 'none' },
      ...{ batch, context, precision, steps: 1, optimizer: { learning_rate: 1e-3 } },
    },
    base,
  )
  const tokens = { ...rope, vocabularySize: vocabulary }
  const shape = { tokens, packed: false, supervisedMax: undefined, isEvaluated: false }
  const memory = estimateMemory(job, shape, 0)
  return (memory.bytes - memory.snapshotBytes) / 2 ** 20
}

/** One run of one side. */
function ran(program: string, args: readonly string[]): Measured & { torch?: string } {
  const printed = execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  const { figures, loss, ...more } = JSON.parse(printed.trim().split('\n').at(-1)!)
  if (!Number.isFinite(loss)) throw new UserError('The loss is no number, so nothing was measured.')
  return { ...figures, ...more }
}

export function ropeway(given: MemoryCase, base: string): Measured {
  const child = join(import.meta.dirname, 'memory-child.ts')
  return ran(process.execPath, ['--import', 'tsx', child, JSON.stringify(given), base])
}

function pytorch(python: string, given: MemoryCase) {
  return ran(python, [join(import.meta.dirname, 'memory.py'), JSON.stringify(given)])
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      python: { type: 'string', default: 'python3' },
      case: { type: 'string', default: 'full' },
      against: { type: 'string', default: 'pytorch' },
      pairs: { type: 'string', default: '3' },
      threads: { type: 'string', default: '2' },
      out: { type: 'string' },
    },
  })
  const found = cases[values.case]
  if (found === undefined) throw new UserError(`--case is one of ${Object.keys(cases).join(', ')}.`)
  const given = { ...found, threads: Number(values.threads) }
  const setting = describeSetting(values.case)
  const base = mkdtempSync(join(tmpdir(), 'ropeway-memory-'))
  try {
    writeBase(base, given)
    let torch: string | undefined
    const other = async () => {
      if (values.against === 'one-piece') return ropeway({ ...given, logitsBytesMax: onePiece }, base)
      const { torch: version, ...figures } = pytorch(values.python, given)
      torch = version
      return figures
    }
    const comparisons = await interleave(
      Number(values.pairs),
      { name: 'ropeway', run: async () => ropeway(given, base) },
      { name: values.against, run: other },
      (line) => process.stderr.write(`${line}\n`),
    )
    const record = {
      bench: 'memory',
      parameters: { ...given, case: values.case, against: values.against, pairs: Number(values.pairs) },
      figures: { estimatedBesideRuntimeMiB: rounded(estimated(given, base)) },
      comparisons,
      setting: setting.end(torch === undefined ? {} : { torch }),
    }
    process.stdout.write(`${JSON.stringify(record)}\n`)
    if (values.out !== undefined) appendFileSync(values.out, `${JSON.stringify(record)}\n`)
  } finally {
    rmSync(base, { recursive: true, force: true })
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
