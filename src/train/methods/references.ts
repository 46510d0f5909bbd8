/**
 * Log-probabilities of answers by the model that training starts from. They are computed once, before the trained
 * model is loaded, so that two models are never in memory, and kept in the run's folder batch by batch: a run that
 * is interrupted goes on where it was, and its later lives read them.
 */
import { createHash } from 'node:crypto'
import {
  closeSync,
  fdatasyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../../base/errors.ts'
import { type Pause, withPauses } from '../../base/pauses.ts'
import type { Device } from '../../runtime/device.ts'
import type { TrainingJob } from '../job.ts'
import { awaitedBaseModel, type BaseModel, frozenModel } from '../prepare-model.ts'
import type { PairBatches } from './pair-batches.ts'
import type { PreferenceMethod } from './preference.ts'
import type { PreferenceData } from './preference-data.ts'
import { PreferenceGraph } from './preference-graph.ts'

type Note = (text: string) => void

interface ReferenceOptions {
  /** They are read from the run's folder and written there. */
  keeps: boolean
  base: BaseModel | undefined
  onNote: Note
  /** Ends it between two batches. */
  signal?: AbortSignal | undefined
  /** Ends it while the model is hashed or loaded. */
  pause: Pause
}

/** Throws a UserError when it is interrupted. `base` is what the job starts from, where that is known already. */
export async function fillReferences(
  job: TrainingJob,
  method: PreferenceMethod,
  data: PreferenceData,
  device: Device,
  { keeps, base, onNote, signal, pause }: ReferenceOptions,
): Promise<void> {
  if (method.kind === 'orpo') return
  const key = keeps ? keyOf(job, data, base ?? (await awaitedBaseModel(fromOf(job), pause))) : ''
  const sides = Object.entries({ training: data.training, validation: data.validation }).flatMap(
    ([name, batches]) => {
      if (batches === undefined) return []
      const path = keeps ? join(job.out, `references-${name}.bin`) : undefined
      return [new ReferenceFile(path, `${key} ${batches.pairs.length}`, batches)]
    },
  )
  try {
    const missing = sides.reduce((sum, { batches, done }) => sum + batches.pairs.length - done, 0)
    if (missing === 0) return
    onNote(`Asking the starting model about ${missing} pairs.`)
    using model = await withPauses(frozenModel(fromOf(job), quantizedOf(job), device, job.context), pause)
    const shape = { sequences: job.batch, tokens: job.context }
    using graph = new PreferenceGraph(method, model, device, shape, 'evaluate')
    const progress = new Progress(missing, onNote)
    for (const side of sides) {
      while (side.done < side.batches.pairs.length) {
        if (signal?.aborted === true) throw interrupted(missing - progress.done)
        const first = side.done
        await evaluate(graph, side, job.batch)
        progress.add(side.done - first)
      }
    }
  } finally {
    for (const side of sides) side[Symbol.dispose]()
  }
}

/** Everything that decides what the starting model says. */
function keyOf(job: TrainingJob, data: PreferenceData, base: BaseModel): string {
  const decides = [base.sha256, quantizedOf(job), data.hash, job.batch, job.context, job.seed]
  return createHash('sha256').update(JSON.stringify(decides)).digest('hex')
}

const fromOf = ({ model }: TrainingJob) => (model as { from: string }).from
const quantizedOf = ({ method }: TrainingJob) => method?.lora?.quantize ?? 'f32'

async function evaluate(graph: PreferenceGraph, file: ReferenceFile, count: number): Promise<void> {
  const { batches, done } = file
  const { length } = batches.pairs
  // A last batch that is not full begins again at the first pair.
  const numbers = Array.from({ length: count }, (_, row) => (done + row) % length)
  const { left, right } = await graph.evaluate(batches.batchOf(numbers), 0)
  const fresh = Math.min(count, length - done)
  file.add(left.subarray(0, fresh), right.subarray(0, fresh))
}

function interrupted(left: number): UserError {
  return new UserError(`Stopped with ${left} pairs left to ask the starting model about.`, {
    failure: 'interrupted',
    fix: 'The same command goes on from there.',
  })
}

/** Says each tenth. */
class Progress {
  readonly #all: number
  readonly #onNote: Note
  done = 0

  constructor(all: number, onNote: Note) {
    this.#all = all
    this.#onNote = onNote
  }

  add(count: number): void {
    const tenths = (done: number) => Math.floor((10 * done) / this.#all)
    const before = this.done
    this.done += count
    if (tenths(this.done) > tenths(before) && this.done < this.#all)
      this.#onNote(`${this.done} of ${this.#all} pairs.`)
  }
}

/** A line that says of what; then left and right of each pair, float32, little-endian. */
class ReferenceFile implements Disposable {
  readonly batches: PairBatches
  /** Pairs whose references are known. */
  done = 0
  readonly #file: number | undefined
  #end = 0

  constructor(path: string | undefined, key: string, batches: PairBatches) {
    this.batches = batches
    if (path === undefined) return
    const head = Buffer.from(`${key}\n`)
    mkdirSync(join(path, '..'), { recursive: true })
    // Without it there is nothing to read.
    writeFileSync(path, '', { flag: 'a' })
    const bytes = readFileSync(path)
    const isOurs = bytes.subarray(0, head.length).equals(head)
    if (isOurs) this.#read(bytes.subarray(head.length))
    this.#file = openSync(path, isOurs ? 'r+' : 'w')
    if (!isOurs) writeSync(this.#file, head)
    // What a crash left behind the last whole pair goes.
    ftruncateSync(this.#file, head.length + 8 * this.done)
    this.#end = head.length + 8 * this.done
  }

  #read(bytes: Buffer): void {
    const { left, right } = this.batches.references
    this.done = Math.min(left.length, Math.floor(bytes.length / 8))
    for (let pair = 0; pair < this.done; pair++) {
      left[pair] = bytes.readFloatLE(8 * pair)
      right[pair] = bytes.readFloatLE(8 * pair + 4)
    }
  }

  add(left: Float32Array, right: Float32Array): void {
    const { references } = this.batches
    const bytes = Buffer.allocUnsafe(8 * left.length)
    for (let i = 0; i < left.length; i++) {
      references.left[this.done + i] = left[i]!
      references.right[this.done + i] = right[i]!
      bytes.writeFloatLE(left[i]!, 8 * i)
      bytes.writeFloatLE(right[i]!, 8 * i + 4)
    }
    this.done += left.length
    if (this.#file === undefined) return
    for (let put = 0; put < bytes.length; )
      put += writeSync(this.#file, bytes, put, bytes.length - put, this.#end + put)
    this.#end += bytes.length
    // A length without its content would be taken for log-probabilities of 0.
    fdatasyncSync(this.#file)
  }

  [Symbol.dispose](): void {
    if (this.#file !== undefined) closeSync(this.#file)
  }
}
