import type { Watch } from '../../src/control/store/watched-driver.ts'

/**
 * - `refused`: the call never reached the database.
 * - `unanswered`: it was carried out, and the answer was lost.
 * - `dead`: neither it nor any call after it reaches the database, as of a server that was killed, until `disarm`; what
 *   had begun is undone.
 * - `killed`: this process dies by SIGKILL instead of calling; `killed_after`: once the call was carried out.
 */
export type Fault = 'refused' | 'unanswered' | 'dead' | 'killed' | 'killed_after'

export class InjectedFault extends Error {
  override name = 'InjectedFault'
}

/**
 * Counts the calls of a store (`begin` and `commit` are calls) and lets the n-th fail, for every n:
 *
 *     const faults = new FaultInjector()
 *     await using store = await openTestStore({ migrations, watch: faults.watch })
 *     for (const _ of faults.each('unanswered')) { try the operation; then look at what is there }
 */
export class FaultInjector {
  calls = 0
  readonly log: string[] = []
  #at = 0
  #fault: Fault = 'refused'
  #struck = false

  /** The n-th call from now (1 is the next one) fails; every other succeeds. */
  arm(n: number, fault: Fault): void {
    this.calls = 0
    this.log.length = 0
    this.#at = n
    this.#fault = fault
    this.#struck = false
  }

  /** From now on every call succeeds: to look at what is there. */
  disarm(): void {
    this.#at = 0
  }

  /** True when the armed fault has happened. */
  get struck(): boolean {
    return this.#struck
  }

  /** Arms 1, 2, 3, ... until a round has fewer calls than that: every call has then failed once. */
  *each(fault: Fault, roundsMax = 1000): Generator<number> {
    for (let n = 1; n <= roundsMax; n++) {
      this.arm(n, fault)
      yield n
      this.disarm()
      if (!this.#struck) return
    }
    throw new Error(`More than ${roundsMax} calls; the last: ${this.log.slice(-5).join('; ')}`)
  }

  readonly watch: Watch = async (sql, call) => {
    this.calls++
    this.log.push(sql)
    if (this.#fault === 'dead' && this.#struck && this.#at > 0 && sql !== 'rollback')
      throw new InjectedFault(`call ${this.calls} is one of a dead server: ${sql}`)
    if (this.calls !== this.#at) return await call()
    this.#struck = true
    if (this.#fault === 'refused' || this.#fault === 'dead')
      throw new InjectedFault(`call ${this.calls} was refused: ${sql}`)
    if (this.#fault === 'killed') die()
    await call()
    if (this.#fault === 'killed_after') die()
    throw new InjectedFault(`call ${this.calls} was not answered: ${sql}`)
  }
}

function die(): void {
  process.kill(process.pid, 'SIGKILL')
  // The signal may take a moment; nothing of ours runs until then.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10_000)
}
