import type { Gate } from '../../api/control/deployments.ts'
import { messageOf } from '../../base/errors.ts'
import type { Store } from '../store/store.ts'
import { dueAfter } from './due.ts'
import { grade } from './grade.ts'
import { reject } from './rollout.ts'
import { type DeploymentRow, deploymentNouns, type ReplicaEntry } from './rows.ts'
import { tell } from './telling.ts'

/** Sends one request to a replica and returns the text of its answer. */
export type AskReplica = (
  entry: ReplicaEntry,
  path: '/v1/completions' | '/v1/chat/completions',
  body: Readonly<Record<string, unknown>>,
) => Promise<string>

/** Cases whose failure is told in the event. */
const toldMax = 3

/**
 * Puts the gate's questions to candidates, beside the loop, and writes the outcome into the row. A server that dies
 * meanwhile leaves the gate pending, and another asks again.
 */
export class Gatekeeper {
  readonly #store: Store
  readonly #ask: AskReplica
  readonly #onTrouble: (deployment: string, error: unknown) => void
  readonly #asking = new Map<string, Promise<void>>()

  constructor(store: Store, ask: AskReplica, onTrouble: (deployment: string, error: unknown) => void) {
    this.#store = store
    this.#ask = ask
    this.#onTrouble = onTrouble
  }

  ask(row: DeploymentRow, entry: ReplicaEntry): void {
    const { gate } = row.spec.rollout
    const id = `${row.id}.${entry.version}`
    if (gate === undefined || this.#asking.has(id)) return
    const asking = this.#judge(row, entry, gate)
      .catch((error: unknown) => this.#onTrouble(row.id, error))
      .finally(() => this.#asking.delete(id))
    this.#asking.set(id, asking)
  }

  /** Resolves when no candidate is being asked. */
  async idle(): Promise<void> {
    while (this.#asking.size > 0) await Promise.all(this.#asking.values())
  }

  async #judge(row: DeploymentRow, entry: ReplicaEntry, gate: Gate): Promise<void> {
    const wrong: string[] = []
    for (const [index, { request, expect }] of gate.cases.entries()) {
      const path = 'messages' in request ? '/v1/chat/completions' : '/v1/completions'
      const graded = grade(
        expect,
        await this.#ask(entry, path, { temperature: 0, ...row.spec.defaults, ...request }),
      )
      if (!graded.right) wrong.push(`case ${index + 1}: ${graded.why}`)
    }
    const count = gate.cases.length
    const isPassed = count - wrong.length >= gate.pass * count - 1e-9
    const told = wrong.slice(0, toldMax).join('; ')
    await this.#write(
      row.id,
      entry.version,
      isPassed,
      `${count - wrong.length} of ${count} answers were right. ${told}`.trim(),
    )
  }

  async #write(id: string, version: string, isPassed: boolean, why: string): Promise<void> {
    const nouns = deploymentNouns(this.#store)
    await this.#store.transaction(async () => {
      const row = await nouns.get(id)
      const candidate = row?.status.candidate
      if (row === undefined || candidate?.version !== version || candidate.gate !== 'pending') return
      const passed = { changes: { candidate: { ...candidate, gate: 'passed' as const } }, events: [] }
      const { changes, events } = isPassed ? passed : reject(row.status, candidate, why)
      if ((await nouns.update(row, { status: { ...row.status, ...changes } })) === undefined) return
      if (isPassed) {
        const message = `${version} has passed its gate: ${why}`
        await tell(this.#store, row, { kind: 'deployment.gate_passed', message })
      }
      for (const event of events) await tell(this.#store, row, event)
    })
    await dueAfter(this.#store, id, 0)
  }
}

/** The text of an OpenAI answer, of either kind. */
export function textOf(answer: string): string {
  try {
    const { choices } = JSON.parse(answer) as {
      choices?: { text?: string; message?: { content?: string | null } }[]
    }
    return choices?.[0]?.text ?? choices?.[0]?.message?.content ?? ''
  } catch (error) {
    throw new Error(`the answer is not JSON: ${messageOf(error)}`)
  }
}
