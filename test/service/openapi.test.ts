/** Generated requests against every endpoint of the OpenAPI document: whatever comes in, no answer is a 5xx. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { apiRoot } from '../../src/api/control/endpoint.ts'
import { problemBody } from '../../src/api/control/problem.ts'
import { Random } from '../../src/base/random.ts'
import { migrations, routesOf } from '../../src/cli/service-parts.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { baseMigrations, baseRoutes } from '../../src/control/service/modules.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { Generator, type JsonSchema } from './generated.ts'
import { addMember, startService } from './running.ts'

interface Operation {
  operationId: string
  parameters?: { in: 'path' | 'query'; name: string; schema: JsonSchema; required?: boolean }[]
  requestBody?: { content: Record<string, { schema: JsonSchema }> }
}
interface Document {
  paths: Record<string, Record<string, Operation>>
}

const requestsOfEach = Number(process.env.ROPEWAY_ROUNDS ?? 6)
const seed = Number(process.env.ROPEWAY_SEED ?? 20261126)

onEveryDatabase((databases) => {
  test('no generated request is answered with a 5xx, and every refusal has the shape of a problem', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-openapi-'))
    await using service = await startService(databases, {
      migrations: migrations.filter((migration) => !baseMigrations.includes(migration)),
      routes: (_, context) =>
        routesOf({
          context,
          folder,
          objects: FolderStore.create(join(folder, 'objects')),
          linkFolders: [],
          server: { id: 'server_1', cluster: 'local' },
          gateway: { host: '127.0.0.1', port: 0 },
        }).filter((module) => !baseRoutes.includes(module)),
    })
    await addMember(service, 'ann', 'develop')
    const document = (await (await fetch(`${service.url}${apiRoot}/openapi.json`)).json()) as Document
    const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({
        path,
        method: method.toUpperCase(),
        operation,
      })),
    )
    expect(operations.length).toBeGreaterThan(40)
    const statuses = new Map<number, number>()
    const random = new Random(seed)
    for (let round = 0; round < requestsOfEach; round++)
      for (const { path, method, operation } of operations) {
        // What ends the key that asks, or locks everybody out, is tried without one.
        const isFatal = /log-out|own-keys.delete/.test(operation.operationId)
        const request = generated(new Generator(random), service.url, path, method, operation)
        const token = isFatal || random.uniform() < 0.1 ? undefined : service.ownerKey
        const response = await fetch(request.url, {
          method,
          headers: { ...(token && { authorization: `Bearer ${token}` }), ...request.headers },
          ...(request.body !== undefined && { body: request.body }),
        })
        const text = await textOf(response)
        const said = `${method} ${request.url} ${String(request.body)} -> ${response.status} ${text} ${failureIn(service.log)} (ROPEWAY_SEED=${seed})`
        expect(response.status, said).toBeLessThan(500)
        if (response.status >= 400) expect(problemBody.safeParse(JSON.parse(text)).success, said).toBe(true)
        statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1)
      }
    rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    // It gets past the door, and it gets refused: otherwise this shows nothing.
    expect(statuses.get(200)).toBeGreaterThan(50)
    expect(statuses.get(400)).toBeGreaterThan(50)
    expect(statuses.get(404)).toBeGreaterThan(20)
  })
})

function failureIn(log: readonly string[]): string {
  return log.findLast((line) => line.includes('request failed'))?.slice(0, 3000) ?? ''
}

/** What follows something does not end by itself. */
async function textOf(response: Response): Promise<string> {
  if (response.headers.get('content-type')?.startsWith('application/x-ndjson') !== true)
    return await response.text()
  await response.body?.cancel()
  return ''
}

function generated(generator: Generator, base: string, path: string, method: string, operation: Operation) {
  const parameters = operation.parameters ?? []
  let address = path
  for (const { name } of parameters.filter(({ in: where }) => where === 'path'))
    address = address.replace(`{${name}}`, encodeURIComponent(generator.pathValue(name)))
  const query = new URLSearchParams()
  for (const { name, schema, required } of parameters.filter(({ in: where }) => where === 'query'))
    if (required === true || generator.chance(0.4)) query.set(name, generator.text(generator.value(schema)))
  const schema = operation.requestBody?.content['application/json']?.schema
  const url = `${base}${address}${query.size > 0 ? `?${query}` : ''}`
  if (method === 'GET' || schema === undefined) return { url, headers: {} }
  return generator.chance(0.05)
    ? { url, headers: { 'content-type': 'application/json' }, body: '{"broken": ' }
    : {
        url,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(generator.value(schema)) ?? 'null',
      }
}
