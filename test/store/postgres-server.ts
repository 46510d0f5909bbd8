/** A PostgreSQL of our own for a test file: in a temp folder, on a unix socket, gone when the file is done. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { inject } from 'vitest'

const installed = '/usr/lib/postgresql'

function binaries(): string | undefined {
  const versions = existsSync(installed) ? readdirSync(installed) : []
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0]
  const folder = newest === undefined ? undefined : join(installed, newest, 'bin')
  return folder !== undefined && existsSync(join(folder, 'initdb')) ? folder : undefined
}

/** postgres refuses to run as root, so it runs as the user that Debian made for it. */
function account(): { uid: number; gid: number } | undefined | 'missing' {
  if (process.getuid?.() !== 0) return undefined
  try {
    const id = (flag: string) =>
      Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8', stdio: 'pipe' }))
    return { uid: id('-u'), gid: id('-g') }
  } catch {
    return 'missing'
  }
}

/** Why PostgreSQL cannot be tested here; undefined when it can. */
export const postgresMissing: string | undefined =
  binaries() === undefined
    ? 'PostgreSQL is not installed here (Debian: apt-get install postgresql)'
    : account() === 'missing'
      ? 'postgres refuses root, and there is no user postgres'
      : undefined

interface Account {
  uid?: number
  gid?: number
  env: Record<string, string | undefined>
}

/** Where a cluster without databases of ours is, for the files of one run to copy: initdb takes ten times as long. */
function emptyCluster(bin: string, account: Account): string {
  const data = join(inject('runFolder'), 'postgres')
  if (existsSync(data)) return data
  const own = mkdtempSync(`${data}-`)
  if (account.uid !== undefined) chownSync(own, account.uid, account.gid!)
  // A language's order of letters, not bytes: what sorts by it without saying so shows.
  const language = ['--locale-provider=icu', '--icu-locale=en-US', '--locale=C.UTF-8', '--encoding=UTF8']
  execFileSync(join(bin, 'initdb'), ['-D', own, '-U', 'ropeway', '--auth=trust', '--no-sync', ...language], {
    ...account,
    stdio: 'pipe',
  })
  try {
    renameSync(own, data)
  } catch (error) {
    // Another file's was there first.
    if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
  return data
}

export class PostgresServer implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #folder: string
  #databases = 0

  private constructor(child: ChildProcess, folder: string) {
    this.#process = child
    this.#folder = folder
  }

  static async start(): Promise<PostgresServer> {
    const bin = binaries()!
    const user = account() as { uid: number; gid: number } | undefined
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-pg-'))
    if (user !== undefined) chownSync(folder, user.uid, user.gid)
    const data = join(folder, 'data')
    const options = { ...user, cwd: folder, env: { PATH: process.env.PATH, LC_ALL: 'C' } } as const
    execFileSync('cp', ['-a', emptyCluster(bin, options), data], { ...options, stdio: 'pipe' })
    const settings = [
      'listen_addresses=',
      `unix_socket_directories=${folder}`,
      'max_connections=60',
      'fsync=off',
    ]
    const child = spawn(
      join(bin, 'postgres'),
      ['-D', data, ...settings.flatMap((setting) => ['-c', setting])],
      { ...options, stdio: 'ignore' },
    )
    // A test process that is stopped takes its server along.
    process.once('exit', () => child.kill('SIGQUIT'))
    const server = new PostgresServer(child, folder)
    await server.#ready()
    return server
  }

  /** The address of a new, empty database. */
  async database(): Promise<string> {
    const name = `test_${++this.#databases}`
    const client = new pg.Client({ connectionString: this.#url('postgres') })
    await client.connect()
    await client.query(`create database ${name}`)
    await client.end()
    return this.#url(name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode === null) {
      const ended = new Promise((resolve) => this.#process.once('exit', resolve))
      this.#process.kill('SIGQUIT')
      await ended
    }
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 9 })
  }

  #url(database: string): string {
    return `postgres://ropeway@/${database}?host=${encodeURIComponent(this.#folder)}`
  }

  async #ready(): Promise<void> {
    for (let tries = 0; ; tries++) {
      const client = new pg.Client({ connectionString: this.#url('postgres') })
      try {
        await client.connect()
        await client.end()
        return
      } catch (error) {
        if (tries > 600 || this.#process.exitCode !== null) throw error
        // The server says nowhere else that it is ready.
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
  }
}
