/**
 * Which version of each adapter new requests get. A version is loaded into the engine before it is published,
 * requests keep the one that they began with, the one before stays loaded for going back at once, and older
 * ones leave when their last request has ended.
 */
import { messageOf, UserError } from '../../base/errors.ts'

/** A name under which an adapter answers. */
export interface PublishedAdapter {
  name: string
  /** The version that new requests get: `name@number`. */
  id: string
  /** The version that `rollback` goes back to. */
  previous?: string
}

/** Adapters of a running engine, as its owner handles them. */
export interface AdapterDesk {
  list(): readonly PublishedAdapter[]
  /** The version that a request gets for this name, `name:latest` or `name@number`; undefined when there is none. */
  resolve(given: string): string | undefined
  /** Loads the adapter in `folder` and gives it to new requests of `name`. Throws a UserError when it cannot. */
  publish(name: string, folder: string): Promise<PublishedAdapter>
  /** Gives new requests the version before; a second call goes forth again. */
  rollback(name: string): PublishedAdapter
  /** New requests are refused; those in flight end as they began. */
  remove(name: string): boolean
}

/** What the desk needs of the engine. */
export interface AdapterPort {
  /** Rejects with a UserError when the adapter cannot be served. */
  load(id: string, folder: string): Promise<void>
  /** No request has it any more. */
  unload(id: string): void
}

interface Version {
  id: string
  folder: string
  users: number
}

interface Name {
  current: Version
  previous: Version | undefined
}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/
/** Names at most: each holds two versions, beside those that run out, in the slots of the engine. */
const namesMax = 24
/** Publications that may wait for one another. */
const publicationsMax = 16

export class EngineAdapters implements AdapterDesk {
  readonly #port: AdapterPort
  readonly #names = new Map<string, Name>()
  /** Every version that is loaded, by id. */
  readonly #versions = new Map<string, Version>()
  /** Numbers are not used twice, also not after a name was removed. */
  readonly #numbers = new Map<string, number>()
  #publishing: Promise<unknown> = Promise.resolve()
  #publications = 0

  constructor(port: AdapterPort) {
    this.#port = port
  }

  list(): readonly PublishedAdapter[] {
    return [...this.#names.keys()].map((name) => this.#describe(name))
  }

  resolve(given: string): string | undefined {
    return this.#versions.get(given)?.id ?? this.#names.get(given.replace(/:latest$/, ''))?.current.id
  }

  async publish(name: string, folder: string): Promise<PublishedAdapter> {
    if (!namePattern.test(name)) {
      throw new UserError(`'${name.slice(0, 100)}' is no name for an adapter.`, {
        failure: 'usage',
        fix: 'Use at most 100 letters, digits, dots, underscores and hyphens, beginning with a letter or digit.',
      })
    }
    if (this.#publications >= publicationsMax)
      throw new UserError('Too many adapters are being loaded.', { failure: 'conflict', fix: 'Try again.' })
    this.#publications++
    // One after the other, so that the last one asked for is the one in force.
    const published = this.#publishing.then(() => this.#publish(name, folder))
    this.#publishing = published.catch((error: unknown) => messageOf(error))
    try {
      return await published
    } finally {
      this.#publications--
    }
  }

  async #publish(name: string, folder: string): Promise<PublishedAdapter> {
    if (!this.#names.has(name) && this.#names.size >= namesMax) {
      throw new UserError(`There are ${namesMax} adapters already.`, {
        failure: 'conflict',
        fix: 'Remove one first.',
      })
    }
    const number = (this.#numbers.get(name) ?? 0) + 1
    this.#numbers.set(name, number)
    const version = { id: `${name}@${number}`, folder, users: 0 }
    await this.#port.load(version.id, folder)
    this.#versions.set(version.id, version)
    const known = this.#names.get(name)
    this.#names.set(name, { current: version, previous: known?.current })
    if (known?.previous !== undefined) this.#retire(known.previous)
    return this.#describe(name)
  }

  rollback(name: string): PublishedAdapter {
    const known = this.#names.get(name)
    if (known === undefined) throw new UserError(`There is no adapter '${name}'.`, { failure: 'not_found' })
    const { current, previous } = known
    if (previous === undefined) {
      throw new UserError(`There is no version before ${current.id}.`, { failure: 'conflict' })
    }
    this.#names.set(name, { current: previous, previous: current })
    return this.#describe(name)
  }

  remove(name: string): boolean {
    const known = this.#names.get(name)
    if (known === undefined) return false
    this.#names.delete(name)
    for (const version of [known.current, known.previous]) if (version !== undefined) this.#retire(version)
    return true
  }

  /** Keeps a version until it is given back as often. */
  take(id: string): void {
    const version = this.#versions.get(id)
    if (version !== undefined) version.users++
  }

  give(id: string): void {
    const version = this.#versions.get(id)
    if (version === undefined) return
    version.users--
    this.#retire(version)
  }

  /** Loads every version again, into an engine that has none; says which could not be. */
  async restore(): Promise<string[]> {
    const lost: string[] = []
    for (const { id, folder } of [...this.#versions.values()]) {
      try {
        await this.#port.load(id, folder)
      } catch (error) {
        lost.push(`${id}: ${messageOf(error)}`)
        this.#forget(id)
      }
    }
    return lost
  }

  #forget(id: string): void {
    this.#versions.delete(id)
    for (const [name, { current, previous }] of this.#names) {
      if (previous?.id === id) this.#names.set(name, { current, previous: undefined })
      else if (current.id !== id) continue
      else if (previous === undefined) this.#names.delete(name)
      else this.#names.set(name, { current: previous, previous: undefined })
    }
  }

  #retire(version: Version): void {
    if (version.users > 0 || !this.#versions.has(version.id)) return
    for (const { current, previous } of this.#names.values())
      if (version === current || version === previous) return
    this.#versions.delete(version.id)
    this.#port.unload(version.id)
  }

  #describe(name: string): PublishedAdapter {
    const { current, previous } = this.#names.get(name)!
    return { name, id: current.id, ...(previous !== undefined && { previous: previous.id }) }
  }
}
