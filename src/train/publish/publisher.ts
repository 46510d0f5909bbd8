/**
 * The adapter in training, given to a running engine now and then: copied between two steps, written as a PEFT folder
 * of its own, and named to the engine, which takes it up between two of its iterations.
 *
 * Training never waits for it and never fails for it. When a publication is due while one is on its way, the newer one
 * is left to the next time.
 */
import { existsSync, readdirSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { messageOf } from '../../base/errors.ts'
import { syncFolder } from '../../base/files.ts'
import { safetensorsPieces } from '../../formats/safetensors-write.ts'
import { stepFolderName } from '../checkpoint.ts'
import { writeHashed } from '../checkpoint-save.ts'
import type { TrainingJob } from '../job.ts'
import type { Parameters } from '../parameters.ts'
import { Snapshot } from '../snapshot.ts'
import type { PublishFields } from './publish-fields.ts'

export interface Publication {
  stepsDone: number
  folder: string
  /** As the engine names it: `NAME@7`. */
  version: string
}

export interface PublisherOptions extends Omit<PublishFields, 'to'> {
  /** Address of the engine; undefined where somebody else looks for what lies in `root`. */
  to: string | undefined
  /** Folder of the publications. */
  root: string
  /** Of the engine; never shown. */
  key?: string | undefined
  onPublished: (publication: Publication) => void
  onFailed: (reason: string) => void
}

/** The engine keeps the newest version and the one before; one more may have requests in flight. */
const keptMax = 3
/** An engine may take so long to load an adapter. */
const callMs = 60_000

const answer = z.object({ version: z.string() })
const refusal = z.object({ error: z.object({ message: z.string() }) })

export class Publisher {
  readonly #parameters: Parameters
  readonly #options: PublisherOptions
  #snapshot: Snapshot | undefined
  #running: Promise<void> | undefined
  #published = 0
  #failing = false

  constructor(parameters: Parameters, options: PublisherOptions) {
    this.#parameters = parameters
    this.#options = options
  }

  /** Called after every step. */
  afterStep(stepsDone: number): void {
    if (stepsDone % this.#options.every === 0) this.#begin(stepsDone)
  }

  /** Publishes what the run ended with, and waits for it. */
  async finish(stepsDone: number): Promise<void> {
    await this.#running
    if (this.#published !== stepsDone) this.#begin(stepsDone)
    await this.#running
  }

  /** Nothing is on its way any more. */
  async settled(): Promise<void> {
    await this.#running
  }

  #begin(stepsDone: number): void {
    if (this.#running !== undefined) return
    this.#snapshot ??= new Snapshot(this.#parameters, 'weights')
    this.#snapshot.take()
    this.#running = this.#publish(this.#snapshot, stepsDone)
      .then(
        (publication) => {
          this.#published = stepsDone
          this.#failing = false
          this.#options.onPublished(publication)
        },
        (error: unknown) => {
          if (!this.#failing) this.#options.onFailed(messageOf(error))
          this.#failing = true
        },
      )
      .finally(() => {
        this.#running = undefined
      })
  }

  async #publish(snapshot: Snapshot, stepsDone: number): Promise<Publication> {
    const { root } = this.#options
    const name = stepFolderName(stepsDone)
    const folder = join(root, name)
    const temporary = join(root, `.${name}.tmp`)
    const { weightsName, description } = snapshot.saved
    await rm(temporary, { recursive: true, force: true })
    await mkdir(temporary, { recursive: true })
    await writeHashed(join(temporary, description.name), [Buffer.from(description.content)])
    await writeHashed(join(temporary, weightsName), safetensorsPieces(snapshot.weights(), { format: 'pt' }))
    await rm(folder, { recursive: true, force: true })
    await rename(temporary, folder)
    syncFolder(root)
    const version = await this.#name(folder)
    await prune(root, stepsDone)
    return { stepsDone, folder, version }
  }

  /** Gives the folder to new requests of the engine. */
  async #name(folder: string): Promise<string> {
    const { to, deployment, key } = this.#options
    if (to === undefined) return `${deployment}:${basename(folder)}`
    const response = await fetch(`${to.replace(/\/+$/, '')}/v1/adapters`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(key !== undefined && { authorization: `Bearer ${key}` }),
      },
      body: JSON.stringify({ name: deployment, path: folder }),
      redirect: 'error',
      signal: AbortSignal.timeout(callMs),
    })
    const body: unknown = await response.json()
    if (response.ok) return answer.parse(body).version
    const said = refusal.safeParse(body)
    throw new Error(`status ${response.status}${said.success ? `: ${said.data.error.message}` : ''}`)
  }
}

/**
 * Older versions than that of `stepsDone` are loaded by nobody: the engine reads a folder once, and again only after it
 * died. Those of later steps are of a life whose end was lost, and do not count.
 */
async function prune(root: string, stepsDone: number): Promise<void> {
  if (!existsSync(root)) return
  const names = readdirSync(root).filter((name) => /^step-\d+$/.test(name))
  const until = names.filter((name) => Number(name.slice(5)) <= stepsDone)
  until.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5)))
  for (const name of until.slice(0, -keptMax)) await rm(join(root, name), { recursive: true, force: true })
}

const engineHere = 'http://127.0.0.1:8000'

export function publisherOf(
  job: TrainingJob,
  parameters: Parameters,
  onPublished: (publication: Publication) => void = () => undefined,
  onNote: (text: string) => void = () => undefined,
): Publisher | undefined {
  if (job.publish === undefined) return undefined
  const { deployment } = job.publish
  const isInService = (process.env.ROPEWAY_JOB ?? '') !== ''
  const to = job.publish.to ?? (isInService ? undefined : engineHere)
  return new Publisher(parameters, {
    ...job.publish,
    to,
    root: join(job.out, 'published'),
    key: process.env.ROPEWAY_API_KEY,
    onPublished,
    onFailed: (reason) => onNote(`${deployment} was not published to ${to} (${reason}); training goes on.`),
  })
}
