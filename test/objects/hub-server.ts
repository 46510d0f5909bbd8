/** A small server that speaks what is documented of the hub's HTTP API: revisions, trees, files with redirects. */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface HubFile {
  readonly path: string
  readonly content: Buffer
  /** Kept in the storage for large files, on another host. */
  readonly large?: boolean
}

export interface TestHub extends AsyncDisposable {
  readonly endpoint: string
  /** `models/org/name` or `datasets/org/name`: the files at its one commit. */
  readonly repositories: Map<string, readonly HubFile[]>
  /** What a request must bring for repositories whose name begins with `private`. */
  readonly token: string
  /** Requests of the storage, which must never see the token. */
  readonly storage: { path: string; range: string | undefined; authorization: string | undefined }[]
  /** Cuts the next answer of the storage off after so many bytes. */
  cutAfter: number | undefined
  /** Statuses of the next answers of the API. */
  readonly refusals: number[]
  pageFiles: number
}

export const commit = 'c0ffee'.padEnd(40, '0')
const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex')
const gitHash = (content: Buffer) =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex')

export async function startHub(): Promise<TestHub> {
  const [api, storage] = [createServer(), createServer()]
  const [endpoint, storageAddress] = await Promise.all([listening(api), listening(storage)])
  const hub: TestHub = {
    endpoint,
    repositories: new Map(),
    token: 'hf_secret',
    storage: [],
    cutAfter: undefined,
    refusals: [],
    pageFiles: 2,
    async [Symbol.asyncDispose]() {
      for (const server of [api, storage]) {
        server.closeAllConnections()
        await new Promise((resolve) => server.close(resolve))
      }
    },
  }
  api.on('request', (request, response) => answer(hub, storageAddress, request, response))
  storage.on('request', (request, response) => {
    const { range, authorization } = request.headers
    hub.storage.push({ path: request.url!, range, authorization })
    const files = [...hub.repositories.values()].flat()
    const file = files.find(({ content }) => request.url === `/${sha256(content)}`)
    if (file === undefined) return response.writeHead(404).end()
    return sendRange(response, file.content, range, hub)
  })
  return hub
}

function answer(hub: TestHub, storage: string, request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url!, hub.endpoint)
  const refusal = hub.refusals.shift()
  if (refusal !== undefined) return void response.writeHead(refusal, { 'retry-after': '0' }).end()
  const [, isApi, kind = 'models', repository = '', verb, revision, path = ''] =
    /^\/(?:(api)\/)?(?:(models|datasets)\/)?([^/]+\/[^/]+)\/(revision|tree|resolve)\/([^/]+)\/?(.*)$/.exec(
      url.pathname,
    ) ?? []
  const files = hub.repositories.get(`${kind}/${repository}`)
  const mayRead =
    !/\/private/.test(`/${repository.split('/')[1]}`) ||
    request.headers.authorization === `Bearer ${hub.token}`
  if (!mayRead) return void response.writeHead(401, { 'x-error-code': 'GatedRepo' }).end()
  if (files === undefined || !['main', commit].includes(revision!)) return void response.writeHead(404).end()
  if (isApi === 'api')
    return void (verb === 'tree'
      ? tree(hub, url, files, response)
      : json(response, { sha: commit, id: repository }))
  const file = files.find((one) => one.path === decodeURIComponent(path))
  if (file === undefined) return void response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
  const common = { 'x-repo-commit': commit }
  if (file.large === true) {
    const linked = { 'x-linked-etag': `"${sha256(file.content)}"`, 'x-linked-size': file.content.length }
    const location = `${storage}/${sha256(file.content)}`
    return void response.writeHead(302, { ...common, ...linked, location }).end()
  }
  const etag = { ...common, etag: `"${gitHash(file.content)}"` }
  if (request.method === 'HEAD')
    return void response.writeHead(200, { ...etag, 'content-length': file.content.length }).end()
  for (const [name, value] of Object.entries(etag)) response.setHeader(name, value)
  sendRange(response, file.content, request.headers.range, undefined)
}

function tree(hub: TestHub, url: URL, files: readonly HubFile[], response: ServerResponse): void {
  const at = Number(url.searchParams.get('cursor') ?? 0)
  const page = files.slice(at, at + hub.pageFiles).map(({ path, content, large }) => ({
    ...{ type: 'file', path, oid: gitHash(content), size: content.length },
    ...(large === true && { lfs: { oid: sha256(content), size: content.length, pointerSize: 130 } }),
  }))
  const folders = at === 0 ? [{ type: 'directory', path: 'original', oid: 'f'.repeat(40), size: 0 }] : []
  const next = at + hub.pageFiles
  if (next < files.length) {
    const more = new URL(url)
    more.searchParams.set('cursor', String(next))
    response.setHeader('link', `<${more.href}>; rel="next"`)
  }
  json(response, [...folders, ...page])
}

function sendRange(
  response: ServerResponse,
  content: Buffer,
  header: string | undefined,
  hub: TestHub | undefined,
) {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(header ?? '') ?? []
  const part = first === undefined ? content : content.subarray(Number(first), Number(last) + 1)
  response.writeHead(first === undefined ? 200 : 206, { 'content-length': part.length })
  const cut = hub?.cutAfter
  if (hub === undefined || cut === undefined || cut >= part.length) return response.end(part)
  hub.cutAfter = undefined
  response.write(part.subarray(0, cut), () => response.destroy())
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

async function listening(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
