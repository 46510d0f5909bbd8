/** The command line driven in this process, against a service of every noun that really listens. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { Clock } from '../../src/base/clock.ts'
import { saveContext } from '../../src/cli/contexts.ts'
import { main } from '../../src/cli/program.ts'
import { migrations, type Parts, routesOf, surfacesOf } from '../../src/cli/service-parts.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { baseMigrations, baseRoutes } from '../../src/control/service/modules.ts'
import { openStore } from '../../src/control/store/store.ts'
import { type RunningService, startService } from '../service/running.ts'

export interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
  /** What stdout held, a JSON object a line. */
  // biome-ignore lint/suspicious/noExplicitAny: each test knows what it asked for
  readonly json: any[]
}

/** Runs one command line; `stdin` is what a pipe would bring. */
export async function ropeway(args: readonly string[], stdin = ''): Promise<Ran> {
  const said = { out: '', err: '' }
  const taken = [
    take(process.stdout, (text) => (said.out += text)),
    take(process.stderr, (text) => (said.err += text)),
  ]
  const own = Object.getOwnPropertyDescriptor(process, 'stdin')!
  const piped = Readable.from(stdin === '' ? [] : [Buffer.from(stdin)])
  Object.defineProperty(process, 'stdin', { value: piped, configurable: true })
  const before = process.exitCode
  process.exitCode = undefined
  try {
    const code = await main(args)
    return { code, ...said, json: said.out.trim().split('\n').flatMap(jsonOf) }
  } finally {
    process.exitCode = before
    Object.defineProperty(process, 'stdin', own)
    for (const give of taken) give()
  }
}

/** What goes to stderr meanwhile. */
export async function stderrOf(act: () => Promise<void>): Promise<string> {
  let said = ''
  const give = take(process.stderr, (text) => (said += text))
  try {
    await act()
    return said
  } finally {
    give()
  }
}

function jsonOf(line: string): unknown[] {
  return /^[[{]/.test(line) && /[\]}]$/.test(line) ? [JSON.parse(line)] : []
}

function take(stream: NodeJS.WriteStream, keep: (text: string) => void): () => void {
  const { write } = stream
  stream.write = ((piece: string | Uint8Array) => {
    keep(typeof piece === 'string' ? piece : Buffer.from(piece).toString('utf8'))
    return true
  }) as typeof write
  return () => {
    stream.write = write
  }
}

export interface Workbench extends AsyncDisposable {
  readonly service: RunningService
  readonly parts: Parts
  /** An empty folder of the test's. */
  readonly folder: string
}

/** A home of its own, a service with every noun, and a context that is its owner in the project `default`. */
export async function workbench(clock?: Clock, more: Partial<Parts> = {}): Promise<Workbench> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-cli-'))
  const home = process.env.ROPEWAY_HOME
  process.env.ROPEWAY_HOME = join(folder, 'home')
  const databases = {
    kind: 'libsql' as const,
    fresh: async () => join(folder, 'ropeway.db'),
    open: (options: Parameters<typeof openStore>[1]) => openStore(join(folder, 'ropeway.db'), options),
  }
  let parts: Parts | undefined
  const service = await startService(databases, {
    ...(clock && { clock }),
    askAgainMs: 100,
    migrations: migrations.filter((migration) => !baseMigrations.includes(migration)),
    routes: (_, context) => {
      parts = {
        ...{ context, folder: join(folder, 'service') },
        server: { id: 'server_1', cluster: 'local' },
        objects: FolderStore.create(join(folder, 'objects')),
        linkFolders: [folder],
        gateway: { host: '127.0.0.1', port: 0 },
        ...more,
      }
      return routesOf(parts).filter((module) => !baseRoutes.includes(module))
    },
    surfaces: () => surfacesOf(parts!),
  })
  saveContext('local', { url: service.url, token: service.ownerKey, project: 'default' })
  return {
    service,
    parts: parts!,
    folder,
    async [Symbol.asyncDispose]() {
      await service[Symbol.asyncDispose]()
      if (home === undefined) delete process.env.ROPEWAY_HOME
      else process.env.ROPEWAY_HOME = home
      rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}
