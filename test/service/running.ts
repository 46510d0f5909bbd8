/** A service that really listens, on a database of its own, with its first owner: for tests of every noun. */
import { pino } from 'pino'
import { Client } from '../../src/api/control/client.ts'
import { type Clock, ManualClock } from '../../src/base/clock.ts'
import { Sealer } from '../../src/control/credentials/sealer.ts'
import { makeFirstOwner } from '../../src/control/people/first-owner.ts'
import { buildService } from '../../src/control/service/app.ts'
import type { ServiceContext } from '../../src/control/service/context.ts'
import { baseMigrations, baseRoutes } from '../../src/control/service/modules.ts'
import type { RouteModule } from '../../src/control/service/routes.ts'
import type { Surface } from '../../src/control/service/surface.ts'
import type { Migration } from '../../src/control/store/migrations.ts'
import type { Store } from '../../src/control/store/store.ts'
import type { Watch } from '../../src/control/store/watched-driver.ts'
import type { TestDatabases } from '../store/databases.ts'

export interface RunningService extends AsyncDisposable {
  readonly url: string
  readonly store: Store
  readonly clock: Clock
  /** Acts as the first owner. */
  readonly owner: Client
  readonly ownerKey: string
  /** Lines of the log. */
  readonly log: string[]
  as(token: string): Client
  readonly nobody: Client
}

export interface ServiceParts {
  readonly migrations?: readonly Migration[]
  /** Gets the store before the routes are joined. */
  readonly routes?: (store: Store, context: ServiceContext) => readonly RouteModule[]
  readonly surfaces?: () => readonly Surface[]
  readonly clock?: Clock
  readonly signUp?: ServiceContext['signUp']
  readonly oidc?: ServiceContext['oidc']
  readonly askAgainMs?: number
  readonly watch?: Watch
}

export async function startService(
  databases: TestDatabases,
  parts: ServiceParts = {},
): Promise<RunningService> {
  const clock = parts.clock ?? new ManualClock(1_700_000_000_000)
  const migrations = [...baseMigrations, ...(parts.migrations ?? [])]
  const store = await databases.open({ migrations, clock, ...(parts.watch && { watch: parts.watch }) })
  const log: string[] = []
  const context: ServiceContext = {
    store,
    log: pino({ level: 'debug' }, { write: (line) => void log.push(line) }),
    sealer: new Sealer(new Uint8Array(32).fill(7)),
    scrypt: { n: 1024, blocks: 8, lanes: 1 },
    signUp: parts.signUp ?? 'invited',
    oidc: parts.oidc,
    askAgainMs: parts.askAgainMs,
  }
  const modules = [...baseRoutes, ...(parts.routes?.(store, context) ?? [])]
  const app = await buildService(context, modules, parts.surfaces?.())
  const { key } = (await makeFirstOwner(store))!
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const as = (token: string) => new Client({ url, token })
  return {
    url,
    store,
    clock,
    log,
    as,
    owner: as(key),
    ownerKey: key,
    nobody: new Client({ url }),
    async [Symbol.asyncDispose]() {
      await app.close()
      await store.close()
    },
  }
}

/** Invites a person into the first organisation, signs them up and returns their client. */
export async function addMember(
  service: RunningService,
  name: string,
  role: 'guest' | 'develop' | 'maintain' | 'admin' | undefined,
): Promise<Client & { email: string; password: string }> {
  const { createInvitation } = await import('../../src/api/control/projects.ts')
  const { signUp } = await import('../../src/api/control/people.ts')
  const email = `${name}@example.org`
  const password = `the long word of ${name}`
  const { token: invitation } = await service.owner.call(createInvitation, {
    params: { organisation: 'main' },
    body: { email, ...(role !== undefined && { project: 'default', project_role: role }) },
  })
  const { token } = await service.nobody.call(signUp, { body: { email, name, password, invitation } })
  return Object.assign(service.as(token), { email, password })
}

/** The secret that an authenticator app is given. */
export function fromBase32(text: string): Buffer {
  const bits = [...text].map((letter) =>
    'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0'),
  )
  return Buffer.from((bits.join('').match(/.{8}/g) ?? []).map((byte) => Number.parseInt(byte, 2)))
}
