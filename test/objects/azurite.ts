/** Azure Blob Storage as azurite does it, with one container, `tests`. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

// The account and key that azurite has built in, and that its documentation names.
export const account = 'devstoreaccount1'
export const key = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='

/** Why it cannot run here. */
export function azuriteMissing(): string | undefined {
  return spawnSync('azurite-blob', ['--version']).status === 0 ? undefined : 'azurite is not installed'
}

export interface Azurite {
  readonly endpoint: string
  /** Writes a blob of the container. */
  put(name: string, body: Uint8Array): Promise<void>
  stop(): Promise<void>
}

const triesMax = 5

export async function startAzurite(): Promise<Azurite> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-azure-'))
  for (let tries = 1; ; tries++) {
    const port = await freePort()
    const where = ['--location', folder, '--blobHost', '127.0.0.1', '--blobPort', String(port)]
    const server = spawn(
      'azurite-blob',
      [...where, '--silent', '--disableTelemetry', '--skipApiVersionCheck'],
      {
        stdio: 'ignore',
      },
    )
    const endpoint = `http://127.0.0.1:${port}/${account}`
    const stop = async () => {
      await ended(server)
      rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    }
    if (await answers(server, endpoint)) {
      await write(endpoint, '/tests?restype=container', undefined)
      const put = (name: string, body: Uint8Array) => write(endpoint, blobPath(name), body)
      return { endpoint, put, stop }
    }
    // Somebody may have taken the port in between.
    if (tries === triesMax) throw new Error('azurite did not start')
  }
}

async function answers(server: ChildProcess, endpoint: string): Promise<boolean> {
  while (server.exitCode === null && server.signalCode === null) {
    if ((await fetch(endpoint).catch(() => undefined)) !== undefined) return server.exitCode === null
    await delay(50)
  }
  return false
}

async function ended(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  const exit = once(server, 'exit')
  server.kill('SIGKILL')
  await exit
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

const blobPath = (name: string) => `/tests/${name.split('/').map(encodeURIComponent).join('/')}`

/** Signed as the service wants writes, which a place that is read does not know how to. */
async function write(endpoint: string, path: string, body: Uint8Array | undefined): Promise<void> {
  const url = new URL(`${endpoint}${path}`)
  const date = new Date().toUTCString()
  const headers = ['x-ms-blob-type:BlockBlob', `x-ms-date:${date}`, 'x-ms-version:2021-12-02']
  const query = [...url.searchParams].map((pair) => pair.join(':'))
  const length = body === undefined || body.length === 0 ? '' : String(body.length)
  const text = ['PUT', '', '', length, '', '', '', '', '', '', '', '', ...headers]
  const signed = [...text, `/${account}${url.pathname}`, ...query].join('\n')
  const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(signed).digest('base64')
  const given = Object.fromEntries(
    headers.map((line) => [line.split(':')[0]!, line.slice(line.indexOf(':') + 1)]),
  )
  const response = await fetch(url, {
    method: 'PUT',
    headers: { ...given, authorization: `SharedKey ${account}:${signature}` },
    ...(body !== undefined && { body: new Uint8Array(body) }),
  })
  if (response.status !== 201) throw new Error(`azurite answered ${response.status} to ${path}`)
}
