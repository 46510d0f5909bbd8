/** The service of this machine as it runs: opened, served, stopped. Loaded by `ropeway up` alone, databases and all. */
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { Client } from '../api/control/client.ts'
import { whoAmI } from '../api/control/people.ts'
import { Refused } from '../api/control/problem.ts'
import { systemClock } from '../base/clock.ts'
import { UserError } from '../base/errors.ts'
import { createLogger, type Logger } from '../base/log.ts'
import { holdAlone } from '../base/sole-user.ts'
import { type Sealer, sealerFromCommand, sealerFromFile } from '../control/credentials/sealer.ts'
import { firstProject, makeFirstOwner, makeOwnerKey } from '../control/people/first-owner.ts'
import { OidcProvider } from '../control/people/oidc-provider.ts'
import { passwordCost } from '../control/people/passwords.ts'
import { agreeOnObjects, agreeOnSecrets } from '../control/servers/agreement.ts'
import { beat, beatEveryMs, enterServer } from '../control/servers/servers.ts'
import { buildService } from '../control/service/app.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import { forgetAnswers } from '../control/service/once.ts'
import { DiskReserve } from '../control/store/disk-reserve.ts'
import { kindOf } from '../control/store/kind.ts'
import type { Store } from '../control/store/store.ts'
import { openUpgraded } from '../control/store/upgrade.ts'
import { openObjects } from './data-parts.ts'
import { listen } from './listening.ts'
import { oidcSettingsFrom } from './oidc-settings.ts'
import { line } from './output.ts'
import { serverIdentity } from './server-identity.ts'
import { contextOf, currentElsewhere, keepContext } from './service-context.ts'
import { type DataFlags, dataOf, otherServerFix } from './service-data.ts'
import { loopStarters, migrations, type Parts, routesOf, surfacesOf } from './service-parts.ts'
import { shutdownSignal } from './shutdown.ts'
import { cyan, note } from './terminal.ts'

export interface UpFlags extends DataFlags {
  host: string
  port: number
  gatewayPort?: number
  keyFile?: string
  keyCommand?: string
  replaceKey?: boolean
  signUp: 'open' | 'invited'
  oidc?: string
  objects?: string
  linkFolder?: string[]
  advertise?: string
  owner?: string
  ownerKey?: boolean
}

/** A service in somebody's terminal that is there for something: it leaves nothing behind that runs. */
export interface Foreground {
  /** Done once the service answers; when `signal` comes it ends, and then the service does. Its failure ends both. */
  work(signal: AbortSignal): Promise<void>
  /** Takes any free port when the one it should have is taken. */
  readonly mayMove: boolean
}

export async function runUp(flags: UpFlags, foreground?: Foreground): Promise<void> {
  const { folder, database: url } = dataOf(flags)
  const log = createLogger('service', process.env.ROPEWAY_LOG ?? 'warn')
  const sealer = sealerOf(flags, folder)
  // Making a key beside a running server is one write; serving beside one would be two servers on the same files.
  using _lock = flags.ownerKey === true ? undefined : holdAlone(join(folder, 'lock.db'), otherServerFix)
  const oidc = flags.oidc !== undefined && {
    oidc: new OidcProvider(oidcSettingsFrom(flags.oidc), systemClock),
  }
  const reserve = kindOf(url) === 'libsql' ? new DiskReserve(url, systemClock) : undefined
  const options = {
    migrations,
    clock: systemClock,
    onLost: lost(log),
    ...(reserve && { watch: reserve.watch }),
  }
  const { store, backup } = await openUpgraded(url, options, join(folder, 'backups'))
  await using _ = store
  if (backup !== undefined) note(`The database was brought up to date; as it was before, it is in ${backup}.`)
  if (flags.ownerKey === true) return await printOwnerKey(store)
  const objects = openObjects(flags.objects, folder)
  await agreeOnSecrets(store, sealer, flags.replaceKey === true)
  await agreeOnObjects(store, objects)
  const parts: Parts = {
    context: { store, log, sealer, scrypt: passwordCost, signUp: flags.signUp, ...oidc },
    folder,
    objects,
    linkFolders: flags.linkFolder ?? [],
    server: serverIdentity(folder, kindOf(url) === 'libsql'),
    gateway: {
      host: flags.host,
      // Beside a service on any free port, the gateway takes any free port too.
      port: flags.gatewayPort ?? (flags.port === 0 ? 0 : Math.min(65535, flags.port + 100)),
    },
    leavesNothing: foreground !== undefined,
  }
  await serve(flags, parts, reserve, foreground)
}

async function serve(
  flags: UpFlags,
  parts: Parts,
  reserve: DiskReserve | undefined,
  foreground: Foreground | undefined,
): Promise<void> {
  const stop = shutdownSignal()
  const app = await buildService(parts.context, routesOf(parts), surfacesOf(parts))
  const loops: Loop[] = []
  try {
    const url = await listenAt(app, flags, foreground?.mayMove === true)
    const { store, log } = parts.context
    await enterServer(store, { ...parts.server, url: advertised(flags, url), gateway_url: null })
    if (foreground === undefined) await greet(parts, url, flags.owner)
    else await ownContext(parts, url)
    loops.push(
      startLoop({
        ...{ name: 'server', everyMs: beatEveryMs, log },
        pass: () => present(store, parts.server.id, reserve),
      }),
    )
    for (const start of loopStarters) loops.push(await start(parts))
    const work = foreground?.work(stop.signal)
    await (work === undefined
      ? stop.requested
      : Promise.race([stop.requested, work.then(() => stop.requested)]))
    // What it still does, it does while the service answers.
    await work
    note('\nStopping: running requests finish. Once more ends it now.')
  } finally {
    await shutDown(app, loops)
    stop.dispose()
  }
}

async function present(store: Store, id: string, reserve: DiskReserve | undefined): Promise<void> {
  await beat(store, id)
  await forgetAnswers(store)
  reserve?.keep()
}

async function listenAt(app: FastifyInstance, flags: UpFlags, mayMove: boolean): Promise<string> {
  const server = { listen: (port: number, host: string) => app.listen({ port, host }) }
  try {
    return await listen(server, flags)
  } catch (error) {
    const isTaken =
      error instanceof UserError && (error.cause as { code?: string } | undefined)?.code === 'EADDRINUSE'
    if (!isTaken || !mayMove) throw error
    return await listen(server, { host: flags.host, port: 0 })
  }
}

/** Lets the command line of this machine talk to this service, as who runs it unless it does as somebody already. */
async function ownContext({ context: { store }, folder }: Parts, url: string): Promise<void> {
  const first = await makeFirstOwner(store)
  const known = contextOf(folder, first && url)
  const { saved } = known
  if (first === undefined && saved?.token !== undefined && (await isKnown(url, saved.token)))
    return keepContext(known, folder, { ...saved, url })
  const made = first ?? (await makeOwnerKey(store))
  if (made === undefined) throw nobody()
  keepContext(known, folder, { url, token: made.key, project: firstProject })
  noteElsewhere(known.name)
}

function noteElsewhere(name: string): void {
  const elsewhere = currentElsewhere(name)
  if (elsewhere !== undefined) note(elsewhere)
}

async function isKnown(url: string, token: string): Promise<boolean> {
  try {
    await new Client({ url, token }).call(whoAmI, {})
    return true
  } catch (error) {
    if (error instanceof Refused) return false
    throw error
  }
}

function nobody(): UserError {
  return new UserError('Nobody runs this service any more: all of its operators are disabled.')
}

/** Where other servers of the same database reach this one. */
function advertised({ advertise, host }: UpFlags, url: string): string {
  if (advertise !== undefined) {
    if (URL.canParse(advertise)) return new URL(advertise).origin
    throw new UserError(`--advertise ${advertise} is no address.`, {
      failure: 'usage',
      fix: 'Give one such as http://10.0.0.7:8600.',
    })
  }
  if (host !== '0.0.0.0' && host !== '::') return url
  const own = new URL(url)
  own.hostname = hostname()
  return own.origin
}

async function greet(
  { context: { store }, folder }: Parts,
  url: string,
  owner: string | undefined,
): Promise<void> {
  const first = await makeFirstOwner(store, owner)
  const known = contextOf(folder, first && url)
  if (first === undefined) {
    // Another port than last time: the command line should find it.
    if (known.saved !== undefined) keepContext(known, folder, { ...known.saved, url })
    note(
      `\nThe service answers at ${cyan(url)}; \`ropeway console\` signs a browser in there. Ctrl-C stops it.`,
    )
    return
  }
  keepContext(known, folder, { url, token: first.key, project: firstProject })
  note(`\nThe service answers at ${cyan(url)}, with an empty database: you own it.`)
  note(
    `Your key, shown this once (the command line of this machine has it in its context "${known.name}"):\n`,
  )
  line(first.key)
  noteElsewhere(known.name)
  note(
    '\n`ropeway console` signs a browser in to its page, `ropeway org invite main EMAIL` lets others in. Ctrl-C stops it.',
  )
}

async function shutDown(app: FastifyInstance, loops: readonly Loop[]): Promise<void> {
  await app.close()
  for (const loop of loops.toReversed()) await loop.stop()
}

async function printOwnerKey(store: Store): Promise<void> {
  const made = (await makeFirstOwner(store)) ?? (await makeOwnerKey(store))
  if (made === undefined) throw nobody()
  line(made.key)
}

function sealerOf(flags: UpFlags, folder: string): Sealer {
  if (flags.keyCommand !== undefined) return sealerFromCommand(flags.keyCommand)
  return sealerFromFile(flags.keyFile ?? join(folder, 'secrets.key'))
}

function lost(log: Logger): (error: Error) => void {
  return (error) => log.warn({ err: error }, 'a connection to the database was lost')
}
