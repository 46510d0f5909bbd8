import { isDeepStrictEqual } from 'node:util'
import type {
  DeploymentInput,
  DeploymentUpdate,
  DeploymentView,
  Rollout,
  VersionInput,
} from '../../api/control/deployments.ts'
import { UserError } from '../../base/errors.ts'
import { recordLineage } from '../models/lineage.ts'
import type { Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { faultOfExpectation } from './grade.ts'
import {
  type DeploymentEvent,
  type DeploymentRow,
  type DeploymentSpec,
  type DeploymentStatus,
  type DeploymentVersion,
  deploymentNouns,
  emptyStatus,
  type Source,
} from './rows.ts'
import type { SourceKind, Sources } from './sources.ts'
import { tell } from './telling.ts'
import { versionsInUse } from './uses.ts'

/** Versions that a deployment remembers; the oldest that nobody needs go first. */
const versionsMax = 100

/** What users do to deployments. Each call is one write; the loop makes it so. */
export class Deployments {
  readonly nouns: Nouns<DeploymentRow>
  readonly #store: Store
  readonly #cluster: string
  readonly #wake: () => void
  readonly #sources: Sources

  /** `cluster`: where new ones run. `wake` is called when there is something to do. */
  constructor(store: Store, cluster: string, sources: Sources, wake: () => void) {
    this.#store = store
    this.#cluster = cluster
    this.#wake = wake
    this.#sources = sources
    this.nouns = deploymentNouns(store)
  }

  /** Throws UserError: the name is taken, a grader cannot be used, there is no such model. */
  async create(project: string, input: DeploymentInput): Promise<DeploymentRow> {
    const { name, version, ...settings } = input
    checkRollout(settings.rollout)
    const nowMs = this.#store.clock.unixMs()
    return await this.#store.transaction(async () => {
      const sources = await this.#sourcesOf(project, version)
      const spec: DeploymentSpec = {
        versions: [{ ...version, id: 'v1', at: nowMs, sources }],
        target: 'v1',
        ...settings,
      }
      const row = await this.nouns.insert({
        ...{
          project_id: project,
          name,
          spec,
          state: 'starting',
          due_at: nowMs,
          wanted_at: 0,
          ending: 0,
          cluster: this.#cluster,
        },
        status: { ...emptyStatus, lastActiveMs: nowMs },
      })
      if (row === undefined) {
        throw new UserError(`A deployment '${name}' exists already: names are shared by all projects.`, {
          failure: 'conflict',
          fix: 'Choose another name, or update that one.',
        })
      }
      await this.#recordLineage(row, sources)
      await this.#tell(row, { kind: 'deployment.created', message: `It was made, with ${version.model}.` })
      return row
    })
  }

  /** Throws UserError when there is no such deployment any more. */
  async update(id: string, changes: DeploymentUpdate): Promise<DeploymentRow> {
    const { version, ...settings } = changes
    if (settings.rollout !== undefined) checkRollout(settings.rollout)
    const given = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined))
    if (version === undefined) {
      return await this.#change(id, (row) => ({
        spec: { ...row.spec, ...given },
        status: retried(row.status),
        event: event('updated', 'Its settings were changed.'),
      }))
    }
    return await this.#store.transaction(async () => {
      const before = await this.nouns.get(id)
      if (before === undefined) throw gone()
      const wanted = { ...version, sources: await this.#sourcesOf(before.project_id, version) }
      const row = await this.#change(id, (row) => ({
        ...this.#withVersion(row, { ...row.spec, ...given }, wanted),
        status: retried(row.status),
      }))
      await this.#recordLineage(row, wanted.sources)
      return row
    })
  }

  #withVersion(row: DeploymentRow, spec: DeploymentSpec, wanted: Omit<DeploymentVersion, 'id' | 'at'>) {
    const newest = spec.versions.at(-1)!
    if (isSame(newest, wanted))
      return { spec: { ...spec, target: newest.id }, event: event('updated', `${newest.id} it is.`) }
    const next = { ...wanted, id: `v${Number(newest.id.slice(1)) + 1}`, at: this.#store.clock.unixMs() }
    const { promoted: _, ...rest } = spec
    return {
      spec: { ...rest, versions: kept([...spec.versions, next], row), target: next.id },
      event: event('version_added', `${next.id} was added, with ${next.model}.`),
    }
  }

  /** What the names of a version mean now; held until the transaction ends. */
  async #sourcesOf(project: string, { model, adapters }: VersionInput): Promise<Record<string, Source>> {
    const sources: Record<string, Source> = {}
    const named: [string, SourceKind][] = [
      [model, 'model'],
      ...Object.values(adapters).map((one): [string, SourceKind] => [one, 'adapter']),
    ]
    for (const [reference, kind] of named) {
      const source = await this.#sources.resolve(project, reference, kind)
      if (source !== undefined) sources[reference] = source
    }
    return sources
  }

  async #recordLineage(row: DeploymentRow, sources: Readonly<Record<string, Source>>): Promise<void> {
    const to = { id: row.id, label: `deployment ${row.name}` }
    for (const { node } of Object.values(sources))
      await recordLineage(this.#store, row.project_id, { from: node, to })
  }

  /** Back to a version that has served, at once. Without one: to the last that served before. */
  async rollback(id: string, version?: string): Promise<DeploymentRow> {
    return await this.#store.transaction(async () => {
      const row = await this.#change(id, (row) => this.#backTo(row, version))
      const { target, versions } = row.spec
      for (const source of Object.values(versions.find((one) => one.id === target)?.sources ?? {})) {
        if (await this.#sources.hold(source)) continue
        throw new UserError(`${target} cannot come back: its ${source.node.label} was deleted.`, {
          failure: 'conflict',
          fix: `Restore it within a day of its deletion, or bring in another version.`,
        })
      }
      return row
    })
  }

  #backTo(row: DeploymentRow, version: string | undefined) {
    const { serving, candidate, previous, served } = row.status
    // While a new version is on its way, the way back is the one that serves.
    const before =
      candidate !== null ? serving : (previous?.version ?? served.filter((one) => one !== serving).at(-1))
    const target = version ?? before ?? undefined
    if (target === undefined || !row.spec.versions.some((one) => one.id === target)) {
      const asked =
        version === undefined ? 'No other version has served yet' : `There is no version ${version}`
      throw new UserError(`${asked}.`, {
        failure: 'not_found',
        fix: 'Its view lists the versions there are.',
      })
    }
    const rejected = row.status.rejected.filter((one) => one !== target)
    const { [target]: _, ...faults } = row.status.faults
    return {
      spec: { ...row.spec, target, promoted: target },
      status: { ...row.status, rejected, faults },
      event: event('rolled_back', `Back to ${target} was asked for.`),
    }
  }

  /** Gives a candidate all of the traffic, whatever its test says. */
  async promote(id: string): Promise<DeploymentRow> {
    return await this.#change(id, (row) => {
      if (row.status.candidate === null)
        throw new UserError('No version is on its way to the traffic.', { failure: 'conflict' })
      const { target } = row.spec
      return {
        spec: { ...row.spec, promoted: target },
        event: event('promoted', `${target} was promoted by hand.`),
      }
    })
  }

  /** Lets its replicas finish what they do, then it is gone. */
  async delete(id: string): Promise<DeploymentRow> {
    return await this.#change(id, (row) => ({
      spec: row.spec,
      ending: true,
      event: event('deleting', 'Its deletion was asked for.'),
    }))
  }

  async #change(
    id: string,
    decide: (row: DeploymentRow) => {
      spec: DeploymentSpec
      status?: DeploymentRow['status']
      ending?: boolean
      event: DeploymentEvent
    },
  ): Promise<DeploymentRow> {
    return await this.#store.transaction(async () => {
      let decided: ReturnType<typeof decide> | undefined
      const row = await this.nouns.change(id, (row) => {
        if (row.deleted_at !== null || row.ending === 1) return undefined
        decided = decide(row)
        const { spec, status, ending } = decided
        return {
          ...{ spec, due_at: this.#store.clock.unixMs() },
          ...(status !== undefined && { status }),
          ...(ending === true && { ending: 1, state: 'deleting' as const }),
        }
      })
      if (row === undefined || decided === undefined) throw gone()
      await this.#tell(row, decided.event)
      return row
    })
  }

  async #tell(row: DeploymentRow, event: DeploymentEvent): Promise<void> {
    await tell(this.#store, row, event)
    this.#store.afterCommit(this.#wake)
  }
}

export function viewOf(row: DeploymentRow, project: string, url: string | null): DeploymentView {
  const { spec, status } = row
  const { candidate } = status
  return {
    ...{ id: row.id, name: row.name, project, state: row.state, message: status.message },
    serving: status.serving,
    target: spec.target,
    candidate: candidate && {
      version: candidate.version,
      share: candidate.judged === undefined ? 0 : (spec.rollout.canary ?? 0),
      shadow: candidate.judged === undefined ? 0 : (spec.rollout.shadow ?? 0),
      since: candidate.sinceMs,
    },
    versions: spec.versions.map(({ sources = {}, ...version }) => ({
      ...version,
      made_of: Object.fromEntries(Object.entries(sources).map(([name, { node }]) => [name, node.label])),
    })),
    replicas: status.replicas.map(({ id, version, phase, sinceMs, running, waiting }) => ({
      ...{ id, version, phase, since: sinceMs },
      ...(running !== undefined && { running }),
      ...(waiting !== undefined && { waiting }),
    })),
    ...{ scaling: spec.scaling, rollout: spec.rollout, public: spec.public },
    ...{ requestLog: spec.requestLog, defaults: spec.defaults, notify: spec.notify ?? null, url },
    ...{ createdAt: row.created_at, updatedAt: row.updated_at },
  }
}

function checkRollout({ gate }: Rollout): void {
  for (const [index, { expect }] of (gate?.cases ?? []).entries()) {
    const fault = faultOfExpectation(expect)
    if (fault !== undefined)
      throw new UserError(`rollout.gate.cases.${index}.expect cannot be used: ${fault}`, { failure: 'usage' })
  }
}

function isSame({ id: _, at: __, ...before }: DeploymentVersion, now: VersionInput): boolean {
  return isDeepStrictEqual(before, now)
}

/** What could not start as the deployment was gets another try. */
function retried(status: DeploymentStatus): DeploymentStatus {
  const faults = Object.entries(status.faults).filter(([, { final }]) => final === undefined)
  return { ...status, faults: Object.fromEntries(faults) }
}

function gone(): UserError {
  return new UserError('There is no such deployment any more.', { failure: 'not_found' })
}

/** The newest versions and those that are in use. */
function kept(versions: readonly DeploymentVersion[], row: DeploymentRow): DeploymentVersion[] {
  const used = versionsInUse(row)
  const surplus = versions.length - versionsMax
  const old = versions.filter(({ id }) => !used.has(id)).slice(0, Math.max(0, surplus))
  return versions.filter((version) => !old.includes(version))
}

function event(kind: string, message: string): DeploymentEvent {
  return { kind: `deployment.${kind}`, message }
}
