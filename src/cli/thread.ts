import { parentPort, Worker } from 'node:worker_threads'
import { assert } from '../base/assert.ts'
import { messageOf, UserError } from '../base/errors.ts'

type Message<Answer> = { id: number; answer: Answer } | { id: number; failure: string }

interface Pending<Answer> {
  resolve: (answer: Answer) => void
  reject: (error: Error) => void
}

/** Work of one kind for one model on a thread of its own, so that this one is not held up. A thread that dies is started again. */
export class Thread<Order, Answer> {
  readonly #name: string
  readonly #modelPath: string
  readonly #task: string
  readonly #pending = new Map<number, Pending<Answer>>()
  #worker: Worker | undefined
  #orders = 0

  /** `name` is the file that it runs, beside this one; `task` what it does, for messages. */
  constructor(name: string, modelPath: string, task: string) {
    this.#name = name
    this.#modelPath = modelPath
    this.#task = task
  }

  /** Starts it before there is work. */
  start(): void {
    this.#worker ??= this.#started()
  }

  /** Rejects with a UserError when the work fails or the thread died over it. */
  ask(order: Order): Promise<Answer> {
    this.start()
    const id = this.#orders++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      this.#worker!.postMessage({ id, order })
    })
  }

  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #started(): Worker {
    const worker = new Worker(entry(this.#name), { workerData: { modelPath: this.#modelPath } })
    worker.on('message', (message: Message<Answer>) => this.#receive(message))
    worker.on('error', (error) => this.#ended(worker, error.message))
    worker.on('exit', () => this.#ended(worker, 'it was stopped'))
    // It waits for work as long as there is a process to work for.
    worker.unref()
    return worker
  }

  #receive(message: Message<Answer>): void {
    const pending = this.#pending.get(message.id)
    this.#pending.delete(message.id)
    if ('answer' in message) pending?.resolve(message.answer)
    else pending?.reject(new UserError(message.failure))
  }

  #ended(worker: Worker, why: string): void {
    if (this.#worker !== worker) return
    this.#worker = undefined
    const lost = [...this.#pending.values()]
    this.#pending.clear()
    for (const { reject } of lost) {
      const failure = 'unreachable'
      reject(new UserError(`The thread that ${this.#task} ended: ${why}.`, { failure }))
    }
  }
}

/** The other side: answers each order, and hands over what is in `transfer`. */
export function answerOrders<Order, Answer>(
  work: (order: Order) => { answer: Answer; transfer: ArrayBuffer[] },
): void {
  assert(parentPort !== null, 'orders are answered in a thread of its own')
  const port = parentPort
  port.on('message', ({ id, order }: { id: number; order: Order }) => {
    try {
      const { answer, transfer } = work(order)
      port.postMessage({ id, answer }, transfer)
    } catch (error) {
      port.postMessage({ id, failure: messageOf(error) })
    }
  })
}

/** What the thread runs: a file beside this one in dist; in the source tree TypeScript, which is compiled first. */
function entry(name: string): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL(`./${name}.js`, import.meta.url)
  const bundler = JSON.stringify(new URL('../../scripts/bundle-source.mjs', import.meta.url).href)
  const file = JSON.stringify(new URL(`./${name}.ts`, import.meta.url).href)
  const source = `import { bundleOf } from ${bundler}; await import(bundleOf(${file}))`
  return new URL(`data:text/javascript,${encodeURIComponent(source)}`)
}
