/** The reference of the HTTP API, made from the OpenAPI document that the service answers with. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { ManualClock } from '../src/base/clock.ts'
import { migrations, routesOf } from '../src/cli/service-parts.ts'
import { Sealer } from '../src/control/credentials/sealer.ts'
import { FolderStore } from '../src/control/objects/folder.ts'
import { passwordCost } from '../src/control/people/passwords.ts'
import { buildService } from '../src/control/service/app.ts'
import { openStore } from '../src/control/store/store.ts'

type Schema = Readonly<Record<string, unknown>>

interface Operation {
  operationId: string
  summary: string
  tags: string[]
  'x-access': string
  parameters?: { in: 'path' | 'query'; name: string; required?: boolean; schema: Schema }[]
  requestBody?: { content: Record<string, { schema?: Schema }> }
  responses: Record<string, { content?: Record<string, { schema?: Schema }> }>
}

const head = `# The HTTP API

Made from \`GET /api/v1/openapi.json\` (\`npm run generate\`). Every request but the public ones carries
\`Authorization: Bearer KEY\`. In a path, \`project\` and \`organisation\` are names or ids.

A list is \`{"items": [...], "next": CURSOR}\`; \`?cursor=CURSOR\` gives the next page, and \`next\` is null on the last. A refusal
is \`{"error": {"code", "message", "fix", "param", "request_id"}}\`. Times are Unix milliseconds. A stream is a JSON object a line.
`

export async function apiReference(): Promise<string> {
  const { paths } = await openApi()
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  )
  const tags = [...new Set(operations.map(({ operation }) => operation.tags[0]!))].sort()
  const sections = tags.map((tag) => {
    const own = operations.filter(({ operation }) => operation.tags[0] === tag)
    return [`## ${tag}`, ...own.map(({ path, method, operation }) => entry(path, method, operation))].join(
      '\n\n',
    )
  })
  return `${[head, ...sections].join('\n\n')}\n`
}

/** The document of a service of every noun that is built and never listens. */
async function openApi(): Promise<{ paths: Record<string, Record<string, Operation>> }> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-reference-'))
  try {
    await using store = await openStore(join(folder, 'ropeway.db'), { migrations, clock: new ManualClock(0) })
    const context = {
      ...{ store, log: pino({ enabled: false }), scrypt: passwordCost },
      ...{ sealer: new Sealer(new Uint8Array(32)), signUp: 'invited' as const },
    }
    const parts = {
      ...{ context, folder, objects: FolderStore.create(join(folder, 'objects')), linkFolders: [] },
      ...{ server: { id: 'server_1', cluster: 'local' }, gateway: { host: '127.0.0.1', port: 0 } },
    }
    const app = await buildService(context, routesOf(parts))
    await app.ready()
    const document = app.swagger() as unknown as Awaited<ReturnType<typeof openApi>>
    await app.close()
    return document
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function entry(path: string, method: string, operation: Operation): string {
  const query = (operation.parameters ?? []).filter((parameter) => parameter.in === 'query')
  const body = Object.entries(operation.requestBody?.content ?? {})[0]
  const rows = [
    ...query.map(({ name, required, schema }) => row(`?${name}`, schema, required === true)),
    ...(body?.[1].schema === undefined ? [] : fieldsOf(body[1].schema, '', 2)),
  ]
  return [
    `### ${operation.operationId}`,
    `\`${method} ${path}\` (${operation['x-access']})`,
    operation.summary,
    ...(rows.length === 0 ? [] : [['| in | type | |', '|---|---|---|', ...rows].join('\n')]),
    ...(body !== undefined && body[0] !== 'application/json' ? ['The body is bytes.'] : []),
    `Answers with ${answerText(operation)}.`,
  ].join('\n\n')
}

function answerText({ responses }: Operation): string {
  const content = responses['200']?.content
  if (content === undefined) return responses['204'] === undefined ? 'a stream' : 'nothing'
  const [kind, { schema }] = Object.entries(content)[0]!
  if (kind !== 'application/json' || schema === undefined) return `\`${kind}\``
  return `\`${typeText(schema, 2)}\``
}

function fieldsOf(schema: Schema, before: string, depth: number): string[] {
  const { properties, required } = schema as { properties?: Record<string, Schema>; required?: string[] }
  if (properties === undefined) return [row(before || 'body', schema, true)]
  return Object.entries(properties).flatMap(([name, inner]) => {
    const path = before === '' ? name : `${before}.${name}`
    const own = row(path, inner, required?.includes(name) === true)
    return depth > 1 && inner.properties !== undefined ? [own, ...fieldsOf(inner, path, depth - 1)] : [own]
  })
}

function row(name: string, schema: Schema, isRequired: boolean): string {
  const { default: fallback, minimum, maximum, maxLength, pattern } = schema
  const large = (value: unknown) => typeof value === 'number' && Math.abs(value) >= Number.MAX_SAFE_INTEGER
  const notes = [
    ...(isRequired && fallback === undefined ? ['required'] : []),
    ...(fallback === undefined ? [] : [`default ${JSON.stringify(fallback)}`]),
    ...(minimum === undefined || large(minimum) ? [] : [`at least ${minimum}`]),
    ...(maximum === undefined || large(maximum) ? [] : [`at most ${maximum}`]),
    ...(maxLength === undefined ? [] : [`at most ${maxLength} characters`]),
    ...(pattern === undefined || pattern === anyText ? [] : [patternText(String(pattern))]),
  ]
  return `| \`${name}\` | \`${cell(typeText(schema, 1))}\` | ${cell(notes.join(', '))} |`
}

/** A pattern that Markdown would take for a link is that of names. */
function patternText(pattern: string): string {
  return pattern.includes('](') ? '1 to 63 of a-z, 0-9, dot, dash, underscore' : `matches \`${pattern}\``
}

/** What every text is held to. */
const anyText = '^[^\\u0000]*$'

/** A schema as a type, objects written out to `depth`. */
function typeText(schema: Schema, depth: number): string {
  const {
    type,
    properties,
    items,
    anyOf,
    oneOf,
    const: constant,
    enum: values,
    additionalProperties,
  } = schema
  if (constant !== undefined) return JSON.stringify(constant)
  if (Array.isArray(values)) return values.map((value) => JSON.stringify(value)).join(' | ')
  const choices = (anyOf ?? oneOf) as readonly Schema[] | undefined
  if (choices !== undefined) return [...new Set(choices.map((one) => typeText(one, depth)))].join(' | ')
  if (type === 'array') return `${grouped(typeText((items ?? {}) as Schema, depth))}[]`
  if (properties !== undefined && depth > 0)
    return `{${Object.entries(properties as Record<string, Schema>)
      .map(([name, inner]) => `${name}: ${typeText(inner, depth - 1)}`)
      .join(', ')}}`
  if (type === 'object' && typeof additionalProperties === 'object' && depth > 0)
    return `{[name]: ${typeText(additionalProperties as Schema, depth - 1)}}`
  return typeof type === 'string' ? type : Array.isArray(type) ? type.join(' | ') : 'any'
}

function grouped(text: string): string {
  return text.includes(' | ') && !/^\{.*\}$/.test(text) ? `(${text})` : text
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}
