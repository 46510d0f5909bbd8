/**
 * Looks after deployments: one look asks launcher and replicas, decides, writes, and then does what was written.
 *
 * Written before done: a run that may exist is always in its row, so a server that dies in between is followed by one
 * that knows of it. Everything done outside may be done again.
 */
import { exitCodes, messageOf } from '../../base/errors.ts'
import { isOver, type Launcher, type MemberObservation, type Observation } from '../launchers/launcher.ts'
import { giveUpRow, takeRows } from '../store/leases.ts'
import type { Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { addDeviceTime } from '../usage/device-time.ts'
import { type Decision, decide, type Seen } from './decide.ts'
import { deviceUse } from './device-use.ts'
import { dueAfter } from './due.ts'
import type { Gatekeeper } from './gatekeeper.ts'
import type { ReplicaRequests } from './replica-requests.ts'
import {
  type DeploymentEvent,
  type DeploymentRow,
  deploymentNouns,
  deploymentOf,
  isReplicaRun,
} from './rows.ts'
import { tell } from './telling.ts'
import type { VersionRecord } from './verdict.ts'

/** Asks a replica how it is; undefined when it does not answer. */
export type Probe = (url: string, key: string) => Promise<Seen['answer']>

export interface DeploymentLoopOptions {
  readonly store: Store
  /** This loop of this server. */
  readonly owner: string
  /** Whose deployments this server looks after, and what runs them. */
  readonly cluster: string
  readonly launcher: Launcher
  readonly requests: ReplicaRequests
  readonly probe: Probe
  readonly gatekeeper: Gatekeeper
  /** What the gateway has counted of a version. */
  readonly records: (deployment: string, version: string) => VersionRecord
  readonly onTrouble: (deployment: string, error: unknown) => void
}

const leaseMs = 30_000
/** Deployments of one round. */
export const lookedAtMax = 50
/** Between looks: while something starts or ends, and otherwise. */
const soonMs = 300
const laterMs = 2_000
const troubleAgainMs = 3_000
/** What a replica gets to finish its requests. */
const drainMs = 60_000

/** Looks at every deployment that is due; returns how many there were. */
export async function reconcileDeployments(options: DeploymentLoopOptions): Promise<number> {
  const { store, owner, cluster } = options
  const nouns = deploymentNouns(store)
  const rows = await takeRows(nouns, {
    owner,
    forMs: leaseMs,
    limit: lookedAtMax,
    where: (is) =>
      is.and([
        is('due_at', '<=', store.clock.unixMs()),
        is('deleted_at', 'is', null),
        is('cluster', '=', cluster),
      ]),
  })
  for (const row of rows) {
    try {
      await look(options, nouns, row)
    } catch (error) {
      options.onTrouble(row.id, error)
      await dueAfter(store, row.id, troubleAgainMs)
    }
    await giveUpRow(nouns, row.id, owner)
  }
  return rows.length
}

async function look(
  options: DeploymentLoopOptions,
  nouns: Nouns<DeploymentRow>,
  row: DeploymentRow,
): Promise<void> {
  const { store, records, gatekeeper } = options
  const seen = await sightsOf(options, row)
  const nowMs = store.clock.unixMs()
  const decision = decide({
    id: row.id,
    spec: row.spec,
    status: row.status,
    isEnding: row.ending === 1,
    wantedMs: row.wanted_at,
    seen,
    records: (version) => records(row.name, version),
    nowMs,
  })
  const isGone = row.ending === 1 && decision.status.replicas.length === 0
  const written = await store.transaction(async () => {
    const { state, events } = decision
    const { status, times } = deviceUse(row, decision.status, nowMs)
    const updated = await nouns.update(row, {
      ...{ status, state, due_at: nowMs + (isMoving(decision) ? soonMs : laterMs) },
      ...(isGone && { deleted_at: nowMs }),
    })
    // Somebody has asked for something meanwhile; the next look decides with it.
    if (updated === undefined) return undefined
    for (const time of times) await addDeviceTime(store, time)
    for (const event of events) await tell(store, row, event)
    return updated
  })
  if (written === undefined) {
    await dueAfter(store, row.id, 0)
    return
  }
  await carryOut(options, written, decision)
  if (decision.ask !== undefined) gatekeeper.ask(written, decision.ask)
}

async function carryOut(
  { launcher, requests, store, onTrouble }: DeploymentLoopOptions,
  row: DeploymentRow,
  { start, stop, forget }: Decision,
): Promise<void> {
  for (const entry of start) {
    const request = await requests.of(row, entry)
    const answer = request.ok ? await launcher.submit(request.request) : request
    if (answer.ok) continue
    if ('later' in answer) {
      await noteRefusal(store, row, answer.message)
      continue
    }
    onTrouble(row.id, new Error(answer.message))
    const message = `${entry.version} cannot start: ${answer.message}`
    await noteRefusal(store, row, message, 'deployment.refused')
  }
  for (const id of stop) await launcher.cancel(id, drainMs)
  for (const id of forget) await launcher.remove(id)
}

/** Why a replica cannot be submitted (yet): said once per reason, for it is tried again and again. */
async function noteRefusal(
  store: Store,
  row: DeploymentRow,
  message: string,
  kind?: DeploymentEvent['kind'],
): Promise<void> {
  if (row.status.refusal === message) return
  const nouns = deploymentNouns(store)
  await store.transaction(async () => {
    const updated = await nouns.update(row, { status: { ...row.status, message, refusal: message } })
    if (updated === undefined || kind === undefined) return
    await tell(store, row, { kind, message })
  })
}

async function sightsOf(
  options: DeploymentLoopOptions,
  row: DeploymentRow,
): Promise<ReadonlyMap<string, Seen>> {
  const seen = new Map<string, Seen>()
  await Promise.all(
    row.status.replicas.map(async ({ id }) => {
      try {
        seen.set(id, await sightOf(options, id))
      } catch (error) {
        // A launcher that does not answer says nothing about its runs.
        options.onTrouble(row.id, error)
      }
    }),
  )
  return seen
}

async function sightOf({ launcher, probe, requests }: DeploymentLoopOptions, id: string): Promise<Seen> {
  const observation = await launcher.observe(id)
  const member = observation.members[0]
  const over = isOver(observation) && observation.known
  const sight = { isKnown: observation.known, isOver: over }
  if (over) {
    const said = member?.exitCode ? await lastWordsOf(launcher, id) : undefined
    const end = endOf(observation, member) + (said === undefined ? '' : ` (${said})`)
    return { ...sight, end, isRefusal: member?.exitCode === exitCodes.usage }
  }
  if (member?.state === 'starting') return { ...sight, isStarting: true }
  if (member?.state !== 'running' || member.address === undefined) return sight
  const url = member.address.trim()
  const answer = await probe(url, requests.keyOf(id))
  return { ...sight, url, ...(answer !== undefined && { answer }) }
}

const lastWordsBytesMax = 64 * 1024
const lastWordsCharactersMax = 300

/** The error that a replica printed before it ended; undefined where its log is longer than that of a failed start. */
async function lastWordsOf(launcher: Pick<Launcher, 'logs'>, id: string): Promise<string | undefined> {
  try {
    const page = await launcher.logs(id, { member: 0, bytesMax: lastWordsBytesMax })
    if (!page.complete) return undefined
    const printed = page.lines.filter(({ stream }) => stream === 'err').map(({ text }) => text.trim())
    const said =
      printed.findLast((text) => /^(error|This is a bug in Ropeway): /.test(text)) ?? printed.at(-1)
    return said
      ?.replace(/^error: /, '')
      .replace(/\.$/, '')
      .slice(0, lastWordsCharactersMax)
  } catch {
    // That it ended is known; a log that cannot be read must not hide it.
    return undefined
  }
}

function endOf({ cancelled }: Observation, member: MemberObservation | undefined): string {
  if (member === undefined) return 'it was cancelled before it began'
  if (member.message !== undefined) return member.message.replace(/\.$/, '')
  if (member.signal !== undefined) return `a signal ended it (${member.signal})`
  if (member.exitCode !== undefined) return `exit code ${member.exitCode}`
  return cancelled ? 'it was cancelled' : 'its end was not seen'
}

function isMoving({ status: { replicas, candidate }, state }: Decision): boolean {
  return candidate !== null || state === 'deleting' || replicas.some(({ phase }) => phase !== 'ready')
}

/**
 * Ends runs that no row knows: a submit that arrived after its run was removed, or a database that was put back to an
 * earlier day. Asks the launcher first and reads the rows then, so a run that was just begun is in its row.
 */
export async function endOrphans({ store, launcher, onTrouble }: DeploymentLoopOptions): Promise<number> {
  const owned = (await launcher.listOwned()).filter(isReplicaRun)
  let ended = 0
  for (const run of owned) {
    try {
      const row = await deploymentNouns(store).get(deploymentOf(run))
      if (row?.status.replicas.some(({ id }) => id === run) === true) continue
      await launcher.cancel(run, 0)
      await launcher.remove(run)
      ended++
    } catch (error) {
      onTrouble(deploymentOf(run), new Error(`The run ${run} cannot be ended: ${messageOf(error)}`))
    }
  }
  return ended
}
