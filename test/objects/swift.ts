import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/**
 * A real S3 server for tests: OpenStack Swift with its s3api, which checks signatures (v4), hashes of payloads and
 * sizes of parts. From Debian: swift-proxy swift-account swift-container swift-object memcached.
 */
export interface Swift {
  endpoint: string
  region: string
  accessKeyId: string
  secretAccessKey: string
  stop(): Promise<void>
}

const parts = ['account', 'container', 'object'] as const
const programs = [...parts, 'proxy'].map((name) => `/usr/bin/swift-${name}-server`)

/** Why no Swift can be started here, or undefined. */
export function swiftMissing(): string | undefined {
  const missing = [...programs, '/usr/bin/memcached'].filter((path) => !existsSync(path))
  return missing.length === 0 ? undefined : `${missing.join(', ')} not installed`
}

const startMs = 30_000

export async function startSwift(): Promise<Swift> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-swift-'))
  const ports = await freePorts(5)
  writeConfiguration(folder, ports)
  buildRings(folder, ports)
  const children = [
    start('/usr/bin/memcached', [
      '-l',
      '127.0.0.1',
      '-p',
      String(ports[4]),
      '-m',
      '16',
      '-u',
      userInfo().username,
    ]),
    ...[...parts, 'proxy'].map((name) =>
      start(`/usr/bin/swift-${name}-server`, [join(folder, `${name}.conf`)]),
    ),
  ]
  const endpoint = `http://127.0.0.1:${ports[3]}`
  const stop = async () => {
    await Promise.all(children.map(ended))
    rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
  }
  try {
    await answering(`${endpoint}/healthcheck`, folder)
  } catch (error) {
    await stop()
    throw error
  }
  return { endpoint, region: 'us-east-1', accessKeyId: 'test:tester', secretAccessKey: 'testing', stop }

  function start(program: string, args: string[]): ChildProcess {
    return spawn(program, args, { stdio: 'ignore', env: { ...process.env, PYTHONWARNINGS: 'ignore' } })
  }
}

function writeConfiguration(folder: string, ports: number[]): void {
  mkdirSync(join(folder, 'devices', 'd'), { recursive: true })
  writeFileSync(
    join(folder, 'swift.conf'),
    '[swift-hash]\nswift_hash_path_suffix = ropeway\n[storage-policy:0]\nname = one\ndefault = yes\n',
  )
  const common = (port: number) =>
    `[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = ${port}\nworkers = 0\nuser = ${userInfo().username}\n` +
    `swift_dir = ${folder}\ndevices = ${join(folder, 'devices')}\nmount_check = false\nlog_level = WARNING\n` +
    `fallocate_reserve = 0\n`
  parts.forEach((name, index) => {
    const cache = join(folder, 'cache')
    writeFileSync(
      join(folder, `${name}.conf`),
      `${common(ports[index]!)}[pipeline:main]\npipeline = ${name}-server\n` +
        `[app:${name}-server]\nuse = egg:swift#${name}\nrecon_cache_path = ${cache}\n`,
    )
  })
  const filters = [
    'catch_errors',
    'healthcheck',
    'cache',
    'listing_formats',
    's3api',
    'tempauth',
    'slo',
    'dlo',
  ]
  const options: Record<string, string> = {
    cache: `use = egg:swift#memcache\nmemcache_servers = 127.0.0.1:${ports[4]}\n`,
    s3api: 'use = egg:swift#s3api\nlocation = us-east-1\nmax_upload_part_num = 10000\n',
    tempauth: 'use = egg:swift#tempauth\nuser_test_tester = testing .admin\n',
  }
  const sections = filters.map((name) => `[filter:${name}]\n${options[name] ?? `use = egg:swift#${name}\n`}`)
  writeFileSync(
    join(folder, 'proxy.conf'),
    `${common(ports[3]!)}[pipeline:main]\npipeline = ${filters.join(' ')} proxy-server\n` +
      `[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n${sections.join('')}`,
  )
}

/** One device, one copy: all three rings by one Python process instead of nine. */
function buildRings(folder: string, ports: number[]): void {
  const script = [
    'import sys',
    'from swift.common.ring import RingBuilder',
    'for name, port in zip(["account", "container", "object"], sys.argv[2:]):',
    '    ring = RingBuilder(4, 1, 1)',
    '    ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d", "weight": 1})',
    '    ring.rebalance()',
    '    ring.get_ring().save(sys.argv[1] + "/" + name + ".ring.gz")',
  ].join('\n')
  const args = ['-c', script, folder, ...ports.slice(0, 3).map(String)]
  const { status, stderr } = spawnSync('/usr/bin/python3', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`The rings of Swift could not be built: ${stderr}`)
}

async function answering(url: string, folder: string): Promise<void> {
  for (const end = performance.now() + startMs; performance.now() < end; await delay(50)) {
    const status = await fetch(url).then(
      (response) => response.status,
      () => 0,
    )
    if (status === 200) return
  }
  const configuration = readFileSync(join(folder, 'proxy.conf'), 'utf8')
  throw new Error(`Swift did not answer within ${startMs} ms with\n${configuration}`)
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  return Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve) => {
          server.once('listening', () => {
            const address = server.address()
            server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
          })
        }),
    ),
  )
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) resolve()
    else {
      child.once('exit', () => resolve())
      child.kill('SIGKILL')
    }
  })
}
