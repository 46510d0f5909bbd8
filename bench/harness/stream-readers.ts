/** Readers of streams in a process of their own: a probe that asks one at a time, and a crowd that asks at once. */
import type { ChildProcess } from 'node:child_process'
import { UserError } from '../../src/base/errors.ts'
import { ended, forkHere } from './token-replica.ts'

/** Where a stream is asked for. */
export interface Target {
  url: string
  model: string
  key: string
}

export interface ProbeSetup {
  /** Asked in turns: A B A B ... */
  targets: readonly Target[]
  /** Of each target; as many again, up to 20, warm up before and are not counted. */
  requests: number
  outputTokens: number
  promptTokens: number
}

/** Milliseconds of one request: to the first event and to the end. */
export interface Probed {
  firstMs: number
  totalMs: number
}

export interface CrowdResult {
  complete: number
  /** What went wrong with the others, each once. */
  faults: readonly string[]
  events: number
}

export type ToReaders =
  | { type: 'probe'; setup: ProbeSetup }
  | { type: 'crowd'; target: Target; streams: number; outputTokens: number }
export type FromReaders =
  | { type: 'probed'; probed: readonly (readonly Probed[])[] }
  | { type: 'allStreaming' }
  | { type: 'crowdEnded'; result: CrowdResult }
  | { type: 'failed'; message: string }

type Answer<Type extends FromReaders['type']> = Extract<FromReaders, { type: Type }>

export class StreamReaders implements AsyncDisposable {
  readonly #child: ChildProcess = forkHere('./stream-readers-process.ts')

  /** Per target, in the order of the requests. */
  async probe(setup: ProbeSetup): Promise<readonly (readonly Probed[])[]> {
    this.#send({ type: 'probe', setup })
    return (await this.#expect('probed')).probed
  }

  /** `allStreaming` resolves when every stream has had its first event. */
  crowd(target: Target, streams: number, outputTokens: number) {
    const allStreaming = this.#expect('allStreaming').then(() => undefined)
    const over = this.#expect('crowdEnded').then(({ result }) => result)
    this.#send({ type: 'crowd', target, streams, outputTokens })
    return { allStreaming, over }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await ended(this.#child)
  }

  #send(message: ToReaders): void {
    this.#child.send(message)
  }

  #expect<Type extends FromReaders['type']>(type: Type): Promise<Answer<Type>> {
    return new Promise((resolve, reject) => {
      const hear = (message: FromReaders) => {
        if (message.type !== type && message.type !== 'failed') return
        this.#child.off('message', hear)
        if (message.type === type) resolve(message as Answer<Type>)
        else reject(new UserError((message as Answer<'failed'>).message))
      }
      this.#child.on('message', hear)
      this.#child.once('exit', () => reject(new UserError('The process of the readers ended.')))
    })
  }
}
