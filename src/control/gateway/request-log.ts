import { createReadStream, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { assert } from '../../base/assert.ts'
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { ToolCall } from './progress.ts'

export interface RequestLogLimits {
  /** Hours that are kept of each deployment; older files go. */
  hoursMax: number
  /** Bytes that wait to be written; what comes beyond is not logged. */
  waitingBytesMax: number
}

export const requestLogLimits: RequestLogLimits = { hoursMax: 24 * 30, waitingBytesMax: 64 * 1024 * 1024 }

/** A request and its answer, as the client saw both. */
export interface LoggedRequest {
  /** Unix milliseconds of its arrival. */
  readonly at: number
  readonly request: string
  readonly key: string
  readonly version: string
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
  /** By choice. */
  readonly answers: readonly string[]
  /** Calls of tools by choice, where there were any. */
  readonly calls?: readonly (readonly ToolCall[])[]
  readonly finishes: readonly string[]
  readonly ms: number
}

/** `2026-11-26T15`, UTC. */
const hourPattern = /^\d{4}-\d\d-\d\dT\d\d$/
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]*$/

/**
 * Requests and answers of the deployments that ask for it: a folder for each, a file for each hour. It holds what
 * people wrote; its folder is closed to others, and the service shows it to those who may edit the deployment.
 */
export class RequestLog {
  readonly #folder: string
  readonly #clock: Clock
  readonly #limits: RequestLogLimits
  readonly #onFault: (message: string) => void
  readonly #swept = new Map<string, string>()
  #writing: Promise<void> = Promise.resolve()
  #waitingBytes = 0
  #lost = 0

  constructor(
    folder: string,
    clock: Clock,
    options: { limits?: Partial<RequestLogLimits>; onFault: (message: string) => void },
  ) {
    this.#folder = folder
    this.#clock = clock
    this.#limits = { ...requestLogLimits, ...options.limits }
    this.#onFault = options.onFault
  }

  /** Requests that were not logged: the disk was full, or slower than they came. */
  get lost(): number {
    return this.#lost
  }

  /** Returns at once: answers do not wait for their log. */
  write(deployment: string, logged: LoggedRequest): void {
    const line = `${JSON.stringify(logged)}\n`
    if (this.#waitingBytes + line.length > this.#limits.waitingBytesMax) {
      this.#lost++
      return
    }
    this.#waitingBytes += line.length
    this.#writing = this.#writing.then(async () => {
      try {
        const hour = hourOf(logged.at)
        const folder = this.#folderOf(deployment)
        mkdirSync(folder, { recursive: true, mode: 0o700 })
        await appendFile(join(folder, `${hour}.ndjson`), line, { mode: 0o600 })
        this.#sweep(deployment, hour)
      } catch (error) {
        if (this.#lost++ === 0) this.#onFault(`Requests cannot be logged: ${messageOf(error)}.`)
      }
      this.#waitingBytes -= line.length
    })
  }

  /** Resolves when all is written. */
  async flush(): Promise<void> {
    await this.#writing
  }

  /** Hours from `sinceMs` on of which there is something, oldest first. */
  hours(deployment: string, sinceMs = 0): string[] {
    const oldest = hourOf(sinceMs)
    const folder = this.#folderOf(deployment)
    if (!existsSync(folder)) return []
    return readdirSync(folder)
      .map((name) => name.replace(/\.ndjson$/, ''))
      .filter((name) => hourPattern.test(name) && name >= oldest)
      .sort()
  }

  /**
   * What was logged in these hours (both inclusive), but nothing of before `sinceMs`: another deployment may have had the
   * name then, of other people. A line that a kill tore is passed over.
   */
  async *read(
    deployment: string,
    { from = '', to = '\uffff', sinceMs = 0 } = {},
  ): AsyncGenerator<LoggedRequest> {
    for (const hour of this.hours(deployment, sinceMs).filter((one) => one >= from && one <= to)) {
      const input = createReadStream(join(this.#folderOf(deployment), `${hour}.ndjson`))
      for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
        if (!line.startsWith('{') || !line.endsWith('}')) continue
        const logged = JSON.parse(line) as LoggedRequest
        if (logged.at >= sinceMs) yield logged
      }
    }
  }

  #sweep(deployment: string, hour: string): void {
    if (this.#swept.get(deployment) === hour) return
    this.#swept.set(deployment, hour)
    const oldest = hourOf(this.#clock.unixMs() - this.#limits.hoursMax * 3_600_000)
    for (const one of this.hours(deployment).filter((one) => one < oldest))
      rmSync(join(this.#folderOf(deployment), `${one}.ndjson`), { force: true })
  }

  #folderOf(deployment: string): string {
    assert(namePattern.test(deployment), 'the name of a deployment can be the name of a folder')
    return join(this.#folder, deployment)
  }
}

export function hourOf(unixMs: number): string {
  return new Date(unixMs).toISOString().slice(0, '2026-11-26T15'.length)
}

/**
 * A line of training data of one logged request: OpenAI's chat format for a chat, `{"prompt", "completion"}` for a
 * completion. Undefined where the answer was cut or is not one text: nothing can be learned from it as it is.
 */
export function trainingLine({ body, answers, calls, finishes }: LoggedRequest): object | undefined {
  const [answer] = answers
  const called = calls?.[0] ?? []
  const isWhole = finishes[0] === 'stop' || finishes[0] === 'tool_calls'
  if (answers.length !== 1 || answer === undefined || !isWhole) return undefined
  if (answer === '' && called.length === 0) return undefined
  if (Array.isArray(body.messages)) {
    const content = answer === '' ? null : answer
    const said = { role: 'assistant', content, ...(called.length > 0 && { tool_calls: called }) }
    const tools = Array.isArray(body.tools) && body.tool_choice !== 'none' ? { tools: body.tools } : {}
    return { messages: [...(body.messages as unknown[]), said], ...tools }
  }
  return typeof body.prompt === 'string' ? { prompt: body.prompt, completion: answer } : undefined
}
