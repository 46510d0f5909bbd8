/**
 * A replica that costs next to nothing: a real HTTP server in a process of its own that streams tokens like an
 * engine, every open stream one token per iteration. What a gateway adds is then not hidden by a model.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { UserError } from '../../src/base/errors.ts'
import { runnerOf } from '../../src/base/processes.ts'

/** Names of its models: `fast` streams without a pause, `paced` a token every `paceMs`. */
export type ReplicaModel = 'fast' | 'paced'

export class TokenReplica implements AsyncDisposable {
  readonly url: string
  readonly #child: ChildProcess

  private constructor(child: ChildProcess, url: string) {
    this.#child = child
    this.url = url
  }

  static async start(paceMs: number): Promise<TokenReplica> {
    const child = forkHere('./token-replica-process.ts', [String(paceMs)])
    const [url] = (await Promise.race([
      once(child, 'message'),
      once(child, 'exit').then(() => {
        throw new UserError('The process of the replica ended.')
      }),
    ])) as [string]
    return new TokenReplica(child, url)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await ended(this.#child)
  }
}

/** Runs a file of this folder from its source; it ends when its parent does. */
export function forkHere(file: string, args: readonly string[] = []): ChildProcess {
  return fork(new URL(file, import.meta.url), [...args], {
    execArgv: runnerOf(file),
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
}

export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  if (child.connected) child.disconnect()
  await exited
}
