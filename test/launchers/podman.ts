/** A real podman with a storage of its own and one tiny image, where this machine lets containers run. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const image = 'localhost/ropeway-test:1'
const applets = ['sh', 'sleep', 'cat', 'echo', 'id', 'env', 'kill', 'printenv', 'true']
const busybox = '/bin/busybox'

const variables = ['CONTAINERS_CONF', 'CONTAINERS_STORAGE_CONF'] as const

export class Podman implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'ropeway-podman-'))
  readonly #before = variables.map((name) => [name, process.env[name]] as const)
  /** Why no container runs here; undefined when they do. */
  readonly missing: string | undefined

  constructor() {
    const [conf, storage] = variables.map((name) => (process.env[name] = join(this.#folder, `${name}.conf`)))
    // runc takes mixed control groups, and limits that are lower than the machine's need no right to raise any.
    const limits = 'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]'
    writeFileSync(
      conf!,
      `[containers]\n${limits}\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n`,
    )
    const [graph, run] = [join(this.#folder, 'graph'), join(this.#folder, 'run')]
    writeFileSync(storage!, `[storage]\ndriver = "vfs"\ngraphroot = "${graph}"\nrunroot = "${run}"\n`)
    this.missing = this.#prepare()
  }

  #prepare(): string | undefined {
    if (spawnSync('podman', ['--version']).status !== 0) return 'podman is not installed'
    if (!existsSync(busybox)) return 'busybox-static is not installed'
    const root = join(this.#folder, 'root')
    for (const name of ['bin', 'tmp']) mkdirSync(join(root, name), { recursive: true })
    copyFileSync(busybox, join(root, 'bin', 'busybox'))
    for (const applet of applets) symlinkSync('busybox', join(root, 'bin', applet))
    const tar = spawnSync('tar', ['-C', root, '-c', '.'], { maxBuffer: 1 << 26 })
    const imported = spawnSync('podman', ['import', '-', image], { input: tar.stdout, encoding: 'utf8' })
    if (imported.status !== 0) return `podman takes no image: ${imported.stderr}`
    const tried = this.run('run', '--rm', '--network', 'none', image, '/bin/true')
    return tried.status === 0 ? undefined : `podman runs no container here: ${tried.stderr}`
  }

  run(...args: string[]) {
    return spawnSync('podman', args, { encoding: 'utf8' })
  }

  /** Names of the containers that are there, running or not. */
  containers(): string[] {
    return this.run('ps', '--all', '--format', '{{.Names}}').stdout.split('\n').filter(Boolean)
  }

  [Symbol.dispose](): void {
    this.run('rm', '--all', '--force', '--time', '0')
    for (const [name, value] of this.#before)
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 9 })
  }
}
