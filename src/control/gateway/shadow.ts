import type { Random } from '../../base/random.ts'
import { AnswerRecord } from './answer-record.ts'
import { bodyFor, type Call, shapeOf } from './call.ts'
import type { Chunk } from './progress.ts'
import type { RelayPorts } from './relay.ts'
import type { Replica, Version } from './replicas.ts'
import { ReplicaLost } from './upstream.ts'

/** Copies on their way at once; further requests are not copied. */
const copiesMax = 64
const copyMsMax = 600_000

/**
 * Sends copies of requests to a version that nobody hears: its answers are compared and thrown away, and billed to
 * nobody. The client's own answer neither waits for the copy nor fails with it.
 */
export class Shadow {
  readonly #ports: RelayPorts
  readonly #random: Random
  readonly #copies = new Set<Promise<void>>()
  readonly #closed = new AbortController()

  constructor(ports: RelayPorts, random: Random) {
    this.#ports = ports
    this.#random = random
  }

  /** The version that gets a copy of a request for the deployment, if any does. */
  draw({ deployment, version, named, path }: Call): Version | undefined {
    const { shadow } = deployment
    // There is no text to compare.
    if (path === '/v1/embeddings') return undefined
    // Who names a version or an adapter wants that one.
    if (shadow === undefined || named !== deployment.name) return undefined
    if (shadow.version === version.id || this.#random.uniform() >= shadow.share) return undefined
    return deployment.versions.find(({ id }) => id === shadow.version)
  }

  /** `answered` resolves with the client's own answer; undefined when it got none. */
  send(call: Call, version: Version, answered: Promise<AnswerRecord | undefined>): void {
    const { roster, metrics } = this.#ports
    const shape = shapeOf(call.given, `shadow ${version.id}`)
    const replica = roster.choose(version, shape, new Set())
    if (replica === undefined || this.#copies.size >= copiesMax) {
      metrics.shadowed(call.deployment.name, version.id, 'skipped')
      return
    }
    const over = roster.begin(replica, shape)
    const copy: Promise<void> = this.#compare(call, version, replica, answered).finally(() => {
      over()
      this.#copies.delete(copy)
    })
    this.#copies.add(copy)
  }

  /** Resolves when no copy is on its way. */
  async idle(): Promise<void> {
    while (this.#copies.size > 0) await Promise.all(this.#copies)
  }

  async close(): Promise<void> {
    this.#closed.abort()
    await this.idle()
  }

  async #compare(
    call: Call,
    version: Version,
    replica: Replica,
    answered: Promise<AnswerRecord | undefined>,
  ): Promise<void> {
    const { metrics } = this.#ports
    const { name } = call.deployment
    const own = await this.#ask(call, version, replica)
    const theirs = await answered
    const isSame = () => own?.said === theirs?.said
    if (own === undefined) metrics.shadowed(name, version.id, 'failed')
    else if (theirs === undefined) metrics.shadowed(name, version.id, 'alone')
    else metrics.shadowed(name, version.id, isSame() ? 'same' : 'different')
  }

  /** The copy's answer; undefined when the replica failed. */
  async #ask(call: Call, version: Version, replica: Replica): Promise<AnswerRecord | undefined> {
    const { upstreams, metrics, clock } = this.#ports
    const { deployment, path } = call
    // The seed of the client's own request: the same model would say the same.
    const given = { ...call.given, seed: call.body.seed, stream: true }
    const body = bodyFor(path, given, { deployment }, version)
    const signal = AbortSignal.any([this.#closed.signal, AbortSignal.timeout(copyMsMax)])
    const sentMs = clock.nowMs()
    const whose = { deployment: deployment.name, version: version.id, replica: replica.id }
    const record = new AnswerRecord()
    let isWhole = false
    try {
      const bytes = Buffer.from(JSON.stringify(body))
      const headers = { 'x-ropeway-tenant': 'shadow' }
      const response = await upstreams.post(replica, path, bytes, { headers, signal, whole: false })
      if (response.statusCode !== 200) {
        await upstreams.text(response)
        return undefined
      }
      await upstreams.events(response, ({ data }) => {
        if (data === undefined) return undefined
        isWhole = data === '[DONE]'
        if (isWhole) return 'last'
        const chunk = JSON.parse(data) as Chunk
        if (chunk.error !== undefined) return 'stop'
        const isFirst = !record.hasText
        record.add(chunk)
        if (isFirst && record.hasText) metrics.shadowFirstText(whose, clock.nowMs() - sentMs)
        return undefined
      })
    } catch (error) {
      if (!(error instanceof ReplicaLost) && !(error instanceof SyntaxError)) throw error
      return undefined
    }
    return isWhole ? record : undefined
  }
}
