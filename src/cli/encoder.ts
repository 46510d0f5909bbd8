import { Worker } from 'node:worker_threads'
import { UserError } from '../base/errors.ts'
import type { EncodeOptions } from '../tokenizer/tokenizer.ts'

export interface EncoderOrder {
  id: number
  text: string
  options: EncodeOptions
}

export type EncoderAnswer = { id: number; tokens: Int32Array } | { id: number; failure: string }

interface Pending {
  resolve: (tokens: Int32Array) => void
  reject: (error: Error) => void
}

/**
 * A model's tokenizer on a thread of its own: encoding a prompt of some hundred thousand characters takes
 * tenths of a second, in which a server must go on writing its streams. A thread that dies is started again.
 */
export class EncoderThread {
  readonly #modelPath: string
  readonly #pending = new Map<number, Pending>()
  #worker: Worker | undefined
  #orders = 0

  constructor(modelPath: string) {
    this.#modelPath = modelPath
    this.#worker = this.#start()
  }

  /** Rejects with a UserError when the text cannot be encoded or the thread died over it. */
  encode(text: string, options: EncodeOptions): Promise<Int32Array> {
    const worker = (this.#worker ??= this.#start())
    const id = this.#orders++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      worker.postMessage({ id, text, options } satisfies EncoderOrder)
    })
  }

  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #start(): Worker {
    const worker = new Worker(entry(), { workerData: { modelPath: this.#modelPath } })
    worker.on('message', (answer: EncoderAnswer) => this.#receive(answer))
    worker.on('error', (error) => this.#ended(worker, error.message))
    worker.on('exit', () => this.#ended(worker, 'it was stopped'))
    // It waits for work as long as there is a process to work for.
    worker.unref()
    return worker
  }

  #receive(answer: EncoderAnswer): void {
    const pending = this.#pending.get(answer.id)
    this.#pending.delete(answer.id)
    if ('tokens' in answer) pending?.resolve(answer.tokens)
    else pending?.reject(new UserError(answer.failure))
  }

  #ended(worker: Worker, why: string): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    const lost = [...this.#pending.values()]
    this.#pending.clear()
    for (const { reject } of lost) {
      const failure = 'unreachable'
      reject(new UserError(`The thread that encodes prompts ended: ${why}.`, { failure }))
    }
  }
}

/** What the thread runs: a file beside this one in dist; in the source tree TypeScript, which needs a loader first. */
function entry(): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL('./encoder-thread.js', import.meta.url)
  const loader = JSON.stringify(import.meta.resolve('tsx/esm/api'))
  const file = JSON.stringify(new URL('./encoder-thread.ts', import.meta.url).href)
  // The loader does not register itself in a thread, as it does by --import in a process.
  const source = `import { register } from ${loader}; register(); await import(${file})`
  return new URL(`data:text/javascript,${encodeURIComponent(source)}`)
}
