/** Clients of the HTTP server in a process of their own: each asks for a stream, reads it, and asks again. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { UserError } from '../../src/base/errors.ts'
import { runnerOf } from '../../src/base/processes.ts'

export interface CrowdSetup {
  url: string
  clients: number
  promptTokens: number
  outputTokens: number
  vocabularySize: number
}

export type ToCrowd = { type: 'start'; setup: CrowdSetup } | { type: 'stop' }
export type FromCrowd =
  | { type: 'allStreaming' }
  | { type: 'stopped'; events: number }
  | { type: 'failed'; message: string }

export class StreamingClients implements AsyncDisposable {
  /** Resolves when every client has got the first part of an answer. */
  readonly allStreaming: Promise<void>
  readonly #child: ChildProcess

  private constructor(child: ChildProcess) {
    this.#child = child
    this.allStreaming = this.#expect('allStreaming').then(() => undefined)
  }

  static start(setup: CrowdSetup): StreamingClients {
    const entry = new URL('./streaming-clients-process.ts', import.meta.url)
    const child = fork(entry, [], {
      execArgv: runnerOf(entry.pathname),
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    child.send({ type: 'start', setup } satisfies ToCrowd)
    return new StreamingClients(child)
  }

  /** Ends all streams; returns how many events the clients read. */
  async stop(): Promise<number> {
    const stopped = this.#expect('stopped')
    this.#child.send({ type: 'stop' } satisfies ToCrowd)
    return (await stopped).events
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.disconnect()
    await exited
  }

  #expect<Type extends FromCrowd['type']>(type: Type): Promise<Extract<FromCrowd, { type: Type }>> {
    return new Promise((resolve, reject) => {
      this.#child.once('message', (message: FromCrowd) => {
        if (message.type === type) resolve(message as Extract<FromCrowd, { type: Type }>)
        else reject(new UserError(message.type === 'failed' ? message.message : `unexpected ${message.type}`))
      })
      this.#child.once('exit', () => reject(new UserError('The process of the clients ended.')))
    })
  }
}
