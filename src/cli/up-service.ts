/** The service of this machine as it runs: opened, served, stopped. Loaded by `ropeway up` alone, databases and all. */
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { systemClock } from '../base/clock.ts'
import { UserError } from '../base/errors.ts'
import { createLogger, type Logger } from '../base/log.ts'
import { type Sealer, sealerFromCommand, sealerFromFile } from '../control/credentials/sealer.ts'
import { firstProject, makeFirstOwner, makeOwnerKey } from '../control/people/first-owner.ts'
import { OidcProvider } from '../control/people/oidc-provider.ts'
import { passwordCost } from '../control/people/passwords.ts'
import { agreeOnObjects, agreeOnSecrets } from '../control/servers/agreement.ts'
import { beat, beatEveryMs, enterServer } from '../control/servers/servers.ts'
import { buildService } from '../control/service/app.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import { forgetAnswers } from '../control/service/once.ts'
import { kindOf } from '../control/store/kind.ts'
import { holdAlone } from '../control/store/sole-user.ts'
import type { Store } from '../control/store/store.ts'
import { openUpgraded } from '../control/store/upgrade.ts'
import { localContext, readContexts, saveContext } from './contexts.ts'
import { openObjects } from './data-parts.ts'
import { listen } from './listening.ts'
import { oidcSettingsFrom } from './oidc-settings.ts'
import { line } from './output.ts'
import { serverIdentity } from './server-identity.ts'
import { type DataFlags, dataOf } from './service-data.ts'
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

export async function runUp(flags: UpFlags): Promise<void> {
  const { folder, database: url } = dataOf(flags)
  const log = createLogger('service', process.env.ROPEWAY_LOG ?? 'warn')
  const sealer = sealerOf(flags, folder)
  // Making a key beside a running server is one write; serving beside one would be two servers on the same files.
  using _lock = flags.ownerKey === true ? undefined : holdAlone(join(folder, 'lock.db'))
  const oidc = flags.oidc !== undefined && {
    oidc: new OidcProvider(oidcSettingsFrom(flags.oidc), systemClock),
  }
  const options = { migrations, clock: systemClock, onLost: lost(log) }
  const { store, backup } = await openUpgraded(url, options, join(folder, 'backups'))
  await using _ = store
  if (backup !== undefined) note(`The database was brought up to date; as it was before, it is in ${backup}.`)
  if (flags.ownerKey === true) return await printOwnerKey(store)
  const objects = openObjects(flags.objects, folder)
  await agreeOnSecrets(store, sealer, flags.replaceKey === true)
  await agreeOnObjects(store, objects)
  await serve(flags, {
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
  })
}

async function serve(flags: UpFlags, parts: Parts): Promise<void> {
  const stop = shutdownSignal()
  const app = await buildService(parts.context, routesOf(parts), surfacesOf(parts))
  const loops: Loop[] = []
  try {
    const url = await listen({ listen: (port, host) => app.listen({ port, host }) }, flags)
    const { store, log } = parts.context
    await enterServer(store, { ...parts.server, url: advertised(flags, url), gateway_url: null })
    await greet(store, url, flags.owner)
    loops.push(
      startLoop({ name: 'server', everyMs: beatEveryMs, log, pass: () => present(store, parts.server.id) }),
    )
    for (const start of loopStarters) loops.push(await start(parts))
    await stop.requested
    note('\nStopping: running requests finish. Once more ends it now.')
  } finally {
    await shutDown(app, loops)
    stop.dispose()
  }
}

async function present(store: Store, id: string): Promise<void> {
  await beat(store, id)
  await forgetAnswers(store)
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

async function greet(store: Store, url: string, owner: string | undefined): Promise<void> {
  const first = await makeFirstOwner(store, owner)
  if (first === undefined) {
    const saved = readContexts().contexts[localContext]
    // Another port than last time: the command line should find it.
    if (saved !== undefined && saved.url !== url) saveContext(localContext, { ...saved, url })
    note(`\nThe service answers at ${cyan(url)}. Ctrl-C stops it.`)
    return
  }
  saveContext(localContext, { url, token: first.key, project: firstProject })
  note(`\nThe service answers at ${cyan(url)}, with an empty database: you own it.`)
  note('Your key, shown this once (the command line of this machine has it in its context "local"):\n')
  line(first.key)
  note(
    '\n`ropeway whoami` shows who you are, `ropeway org invite main EMAIL` lets others in. Ctrl-C stops it.',
  )
}

async function shutDown(app: FastifyInstance, loops: readonly Loop[]): Promise<void> {
  await app.close()
  for (const loop of loops.toReversed()) await loop.stop()
}

async function printOwnerKey(store: Store): Promise<void> {
  const made = (await makeFirstOwner(store)) ?? (await makeOwnerKey(store))
  if (made === undefined)
    throw new UserError('Nobody runs this service any more: all of its operators are disabled.')
  line(made.key)
}

function sealerOf(flags: UpFlags, folder: string): Sealer {
  if (flags.keyCommand !== undefined) return sealerFromCommand(flags.keyCommand)
  return sealerFromFile(flags.keyFile ?? join(folder, 'secrets.key'))
}

function lost(log: Logger): (error: Error) => void {
  return (error) => log.warn({ err: error }, 'a connection to the database was lost')
}
