import { assert } from '../../base/assert.ts'

/**
 * What the gateway routes to: deployments, their versions with shares of the traffic, and the replicas that
 * answer for them. Plain data that is replaced as a whole: a request that began under one fleet ends under it,
 * and a rollback is one assignment.
 */
export interface Fleet {
  readonly deployments: readonly Deployment[]
}

export interface Deployment {
  /** What clients write into `model`. */
  readonly name: string
  readonly project: string
  /** Seconds since 1970. */
  readonly created: number
  /** Everybody may ask, without a key. */
  readonly public: boolean
  /** At least one. */
  readonly versions: readonly Version[]
  /** Fields of a request that leaves them out. */
  readonly defaults: Readonly<Record<string, unknown>>
  /** Copies of this share of the requests go to a version of it, and their answers nowhere. */
  readonly shadow?: { readonly version: string; readonly share: number }
  /** Requests and answers are written down. */
  readonly logged?: boolean
  /** Its machine, where that has a gateway of its own; without a `url`, that one is gone. */
  readonly home?: { readonly cluster: string; readonly url: string | undefined }
}

export interface Version {
  /** Unique within its deployment; clients may ask for it as `deployment:id`. */
  readonly id: string
  /** Weight in the traffic that names no version; 0 gets none of it. */
  readonly share: number
  /** What its replicas call the model. */
  readonly model: string
  /** Clients' name of an adapter -> what the replicas call it. */
  readonly adapters: Readonly<Record<string, string>>
  readonly replicas: readonly Replica[]
}

export interface Replica {
  /** Unique in the whole fleet, and never given to another address. */
  readonly id: string
  /** Base URL without /v1. */
  readonly url: string
  /** Its gateway key (`ropeway serve --gateway-key`), or any API key that it takes. */
  readonly key?: string
  /** Only `ready` ones get new requests; what a `draining` one runs goes on. */
  readonly state: 'starting' | 'ready' | 'draining'
}

export const emptyFleet: Fleet = { deployments: [] }

/** The fleet of now. Readers take `current` once per request. */
export class ReplicaTable {
  #current: Fleet
  readonly #listeners = new Set<(fleet: Fleet) => void>()

  constructor(fleet: Fleet = emptyFleet) {
    checkFleet(fleet)
    this.#current = fleet
  }

  get current(): Fleet {
    return this.#current
  }

  /** All or nothing: a fleet that breaks its own rules is refused and the old one stays. */
  replace(fleet: Fleet): void {
    checkFleet(fleet)
    this.#current = fleet
    for (const listener of [...this.#listeners]) listener(fleet)
  }

  /** Replaces one deployment; the others stay as they are. */
  replaceDeployment(deployment: Deployment): void {
    const others = this.#current.deployments.filter(({ name }) => name !== deployment.name)
    this.replace({ deployments: [...others, deployment] })
  }

  /** Hears of every change until the returned call. */
  onChange(listener: (fleet: Fleet) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }
}

/** What a fleet breaks of its rules; undefined when it is sound. */
export function faultOf({ deployments }: Fleet): string | undefined {
  const names = deployments.map(({ name }) => name)
  const ids = deployments.flatMap(({ versions }) =>
    versions.flatMap(({ replicas }) => replicas.map((r) => r.id)),
  )
  const twice = repeated(names) ?? repeated(ids)
  if (twice !== undefined) return `'${twice}' is there twice.`
  for (const { name, versions, shadow } of deployments) {
    if (name === '' || name.includes(':'))
      return `A deployment's name is not empty and has no colon: '${name}'.`
    if (versions.length === 0) return `The deployment '${name}' has no version.`
    const asked = versions.flatMap(({ id, adapters }) => [id, ...Object.keys(adapters)])
    const versionTwice = repeated(versions.map(({ id }) => id))
    if (versionTwice !== undefined) return `'${name}' has two versions '${versionTwice}'.`
    if (asked.includes('')) return `A version or adapter of '${name}' has no name.`
    if (shadow !== undefined && !versions.some(({ id }) => id === shadow.version))
      return `The shadow of '${name}' is no version of it: '${shadow.version}'.`
    if (!versions.some(({ share }) => share > 0)) return `No version of '${name}' has a share of the traffic.`
  }
  return undefined
}

function checkFleet(fleet: Fleet): void {
  const fault = faultOf(fleet)
  assert(fault === undefined, `a fleet is sound: ${fault}`)
}

function repeated(values: readonly string[]): string | undefined {
  return values.find((value, index) => values.indexOf(value) !== index)
}

/** What a client asked for by `deployment`, `deployment:version` or `deployment:adapter`. */
export interface Target {
  readonly deployment: Deployment
  /** Set when the client named one. */
  readonly version?: Version
  readonly adapter?: string
}

export function findTarget({ deployments }: Fleet, model: string): Target | undefined {
  const colon = model.indexOf(':')
  const deployment = deployments.find(({ name }) => name === (colon < 0 ? model : model.slice(0, colon)))
  if (deployment === undefined || colon < 0) return deployment && { deployment }
  const part = model.slice(colon + 1)
  const version = deployment.versions.find(({ id }) => id === part)
  if (version !== undefined) return { deployment, version }
  const knowsIt = deployment.versions.some(({ adapters }) => Object.hasOwn(adapters, part))
  return knowsIt ? { deployment, adapter: part } : undefined
}

/** Every name that {@link findTarget} finds, in order. */
export function modelNames({ name, versions }: Deployment): string[] {
  const adapters = new Set(versions.flatMap((version) => Object.keys(version.adapters)))
  return [
    name,
    ...versions.map(({ id }) => `${name}:${id}`),
    ...[...adapters].map((part) => `${name}:${part}`),
  ]
}
