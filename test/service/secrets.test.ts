/** Nothing that is secret comes into a log or, in plain text, into the database: planted everywhere, then looked for. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Kysely, sql } from 'kysely'
import { pino } from 'pino'
import { afterAll, expect, test } from 'vitest'
import { createCredential } from '../../src/api/control/credentials.ts'
import { apiRoot } from '../../src/api/control/endpoint.ts'
import { createKey } from '../../src/api/control/keys.ts'
import { logIn, signUp, whoAmI } from '../../src/api/control/people.ts'
import { createInvitation } from '../../src/api/control/projects.ts'
import { migrations, type Parts, routesOf } from '../../src/cli/service-parts.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { baseMigrations, baseRoutes } from '../../src/control/service/modules.ts'
import { openStore, type Store } from '../../src/control/store/store.ts'
import { bearer, gatewayOver, knows } from '../gateway/harness.ts'
import { deployment, scriptedReplica, version } from '../gateway/scripted-replica.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { FaultInjector } from '../store/faults.ts'
import type { JsonSchema } from './generated.ts'
import { startService } from './running.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-secrets-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

/** In every text that a client may send. */
const planted = 'PLANTED-text-7f3a9c'
const password = 'PLANTED password 5d1e88'
const secret = 'PLANTED-credential-0b44aa'

interface Operation {
  operationId: string
  parameters?: { in: string; name: string; schema: JsonSchema }[]
  requestBody?: { content: Record<string, { schema: JsonSchema }> }
}
interface Document {
  paths: Record<string, Record<string, Operation>>
}

/** A value of the schema whose texts are all the planted one. */
function filled(schema: JsonSchema, depth = 0): unknown {
  if (schema.const !== undefined) return schema.const
  if (schema.enum !== undefined) return schema.enum[0]
  const alternatives = schema.anyOf ?? schema.oneOf
  if (alternatives !== undefined) return filled(alternatives[0]!, depth)
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type
  if (type === 'object')
    return Object.fromEntries(
      Object.entries(schema.properties ?? {}).map(([name, one]) => [name, filled(one, depth + 1)]),
    )
  if (type === 'array') return depth > 4 ? [] : [filled(schema.items ?? {}, depth + 1)]
  if (type === 'integer' || type === 'number') return Math.max(1, schema.minimum ?? 1)
  if (type === 'boolean') return true
  if (type === 'null') return null
  return planted
}

async function askAll(url: string, token: string, before: () => void): Promise<number> {
  const { paths } = (await (await fetch(`${url}${apiRoot}/openapi.json`)).json()) as Document
  let asked = 0
  for (const [path, methods] of Object.entries(paths))
    for (const [method, { operationId, parameters = [], requestBody }] of Object.entries(methods)) {
      if (/log-out|own-keys.delete|watch/.test(operationId)) continue
      const query = parameters
        .filter(({ in: where }) => where === 'query')
        .map(({ name }): [string, string] => [name, planted])
      const place = path.replace(/\{(\w+)\}/g, (_, name: string) =>
        name === 'project' ? 'default' : name === 'organisation' ? 'main' : planted,
      )
      const content = requestBody?.content['application/json']
      before()
      const answer = await fetch(`${url}${place}?${new URLSearchParams(asked % 2 === 0 ? [] : query)}`, {
        method: method.toUpperCase(),
        headers: {
          authorization: `Bearer ${asked % 5 === 4 ? planted : token}`,
          cookie: `other=${planted}`,
          'x-forwarded-for': planted,
          ...(content && { 'content-type': 'application/json' }),
        },
        ...(content && { body: asked % 7 === 6 ? `{"${planted}` : JSON.stringify(filled(content.schema)) }),
        signal: AbortSignal.timeout(10_000),
      })
      await answer.text()
      asked++
    }
  return asked
}

async function everythingIn(store: Store, databaseFolder: string): Promise<string> {
  if (store.kind === 'libsql')
    return readdirSync(databaseFolder, { recursive: true, encoding: 'utf8' })
      .map((name) => join(databaseFolder, name))
      .filter((path) => statSync(path).isFile())
      .map((path) => readFileSync(path, 'latin1'))
      .join('\n')
  const db = store.db() as Kysely<Record<string, object>>
  const tables = await db.introspection.getTables()
  const rows = await Promise.all(
    tables.map(({ name }) => sql`select * from ${sql.table(name)}`.execute(db).then((found) => found.rows)),
  )
  return JSON.stringify(rows)
}

onEveryDatabase((databases) => {
  test('no log holds what clients send, whatever fails, and no database a password, key, token or credential', async () => {
    const own = join(folder, databases.kind)
    const faults = new FaultInjector()
    const address = databases.kind === 'libsql' ? await databases.fresh() : ''
    const opened: TestDatabases =
      databases.kind === 'libsql'
        ? { ...databases, open: (options) => openStore(address, options) }
        : databases
    let parts: Parts | undefined
    await using service = await startService(opened, {
      watch: faults.watch,
      migrations: migrations.filter((migration) => !baseMigrations.includes(migration)),
      routes: (_, context) => {
        parts = {
          ...{ context, folder: own, server: { id: 'server_1', cluster: 'local' }, linkFolders: [] },
          objects: FolderStore.create(join(own, 'objects')),
          gateway: { host: '127.0.0.1', port: 0 },
        }
        return routesOf(parts).filter((module) => !baseRoutes.includes(module))
      },
    })
    const { owner, nobody } = service
    const params = { project: 'default' }
    const invited = await owner.call(createInvitation, {
      params: { organisation: 'main' },
      body: { email: 'ann@example.org' },
    })
    const body = { email: 'ann@example.org', name: 'Ann', password, invitation: invited.token }
    const session = await nobody.call(signUp, { body })
    const again = await nobody.call(logIn, { body: { email: body.email, password } })
    await expect(
      nobody.call(logIn, { body: { email: body.email, password: `${password}!` } }),
    ).rejects.toThrow()
    const { key } = await owner.call(createKey, {
      ...{ params, body: { name: 'ci' } },
      headers: { 'idempotency-key': planted },
    })
    const values = { kind: 'huggingface', token: secret } as const
    await owner.call(createCredential, { params, body: { name: 'hub', values } })
    await service.as(key).call(whoAmI, {})
    const tokens = [service.ownerKey, key, invited.token, session.token, again.token]
    // As they are, and with one call of the database after the other failing.
    const asked = await askAll(service.url, service.ownerKey, () => undefined)
    expect(asked).toBeGreaterThan(90)
    for (const n of [5, 8]) await askAll(service.url, service.ownerKey, () => faults.arm(n, 'refused'))
    faults.disarm()
    const log = service.log.join('')
    // It does log: failures with their reasons too.
    expect(log).toMatch(/request failed/)
    for (const text of [planted, password, secret, ...tokens]) expect(log).not.toContain(text)
    const stored = await everythingIn(service.store, join(address, '..'))
    expect(stored).toContain('ann@example.org')
    for (const text of [password, secret, ...tokens]) expect(stored).not.toContain(text)
  })
})

test('the gateway logs no prompt, answer or key, whatever its replicas do', async () => {
  await using replica = await scriptedReplica('one')
  await using other = await scriptedReplica('two')
  const lines: string[] = []
  const nowhere = { id: 'lost', url: 'http://127.0.0.1:9', state: 'ready' as const }
  const deployments = [
    deployment('good', { versions: [version([replica.replica])] }),
    deployment('lost', { versions: [version([nowhere])] }),
    deployment('shown', { versions: [version([other.replica])], logged: true }),
  ]
  const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) })
  await using gateway = await gatewayOver(deployments, {
    ...{ log, verify: knows({ [planted]: { limits: {} } }) },
    limits: { holdMs: 200 },
  })
  for (const model of ['good', 'lost', 'shown', planted])
    for (const path of ['/v1/completions', '/v1/chat/completions'])
      for (const body of [
        { model, prompt: planted, max_tokens: 5, user: planted, stop: planted },
        { model, messages: [{ role: 'user', content: planted }], max_tokens: 5, stream: true },
        { model, prompt: { wrong: planted } },
      ])
        for (const key of [planted, `${planted}-unknown`]) {
          const answer = await fetch(`${gateway.url}${path}`, {
            method: 'POST',
            body: JSON.stringify(body),
            headers: { ...bearer(key).headers, 'x-request-id': `id-${model.length}` },
          })
          await answer.text()
        }
  expect(lines.join('')).not.toContain(planted)
})
