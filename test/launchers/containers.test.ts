/** Commands in containers: the arguments of both engines, and real containers where podman runs them. */
import { cpSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type ContainerDemand, isOver } from '../../src/control/launchers/launcher.ts'
import {
  type ContainerMember,
  containerCommand,
  findEngine,
  passesStreams,
  writeLogin,
} from '../../src/control/launchers/local/containers.ts'
import { processIdentity } from '../../src/control/launchers/local/process-identity.ts'
import { memberFolder, names, readStored } from '../../src/control/launchers/local/run-folder.ts'
import { type LocalHarness, openLocal } from './local-harness.ts'
import { image, Podman } from './podman.ts'

const member: ContainerMember = {
  ...{
    run: 'job_1-2',
    name: 'ropeway-job_1-2-3-0f1e2d3c',
    folder: '/jobs/job_1/work,space',
    command: ['python3', 'train.py', '--lr', '1'],
  },
  container: {
    ...{ image: 'registry.example.org/team/train:1', network: 'bridge', memoryBytes: 2 ** 30, cpus: 1.5 },
    sharedMemoryBytes: 2 ** 26,
    mounts: [
      { path: '/jobs/job_1/work,space', readOnly: false },
      { path: '/sdk', readOnly: true },
    ],
  },
  ...{
    variables: ['RANK', 'TOKEN'],
    settings: { PATH: '/opt/conda/bin:/bin' },
    gpus: [4, 6],
    idFile: '/runs/job_1-2/members/3/container',
    loginFolder: '/runs/job_1-2/login',
    user: { uid: 1000, gid: 100 },
  },
}
const inside = [
  ...[
    'run',
    '--rm',
    '--name',
    'ropeway-job_1-2-3-0f1e2d3c',
    '--cidfile',
    '/runs/job_1-2/members/3/container',
  ],
  ...['--label', 'ropeway.run=job_1-2', '--user', '1000:100'],
  ...['--workdir', '/jobs/job_1/work,space', '--network', 'bridge', '--cap-drop', 'all'],
  ...['--security-opt', 'no-new-privileges', '--pids-limit', '4096'],
]
const limits = ['--memory', '1073741824', '--cpus', '1.5', '--shm-size', '67108864']
const rest = [
  ...['--mount', 'type=bind,"source=/jobs/job_1/work,space","target=/jobs/job_1/work,space"'],
  ...['--mount', 'type=bind,source=/sdk,target=/sdk,readonly', '--env', 'RANK', '--env', 'TOKEN'],
  ...[
    '--env',
    'HOME=/tmp',
    '--env',
    'PATH=/opt/conda/bin:/bin',
    '--env',
    'CUDA_VISIBLE_DEVICES=0,1',
    'registry.example.org/team/train:1',
  ],
  ...['python3', 'train.py', '--lr', '1'],
]

test('docker is told all by arguments that no shell reads, and secrets are none of them', () => {
  expect(containerCommand({ kind: 'docker', program: 'docker' }, member)).toEqual([
    ...['docker', '--config', '/runs/job_1-2/login', ...inside, ...limits, '--gpus', '"device=4,6"', ...rest],
  ])
})

test('podman gets the same, its own words for GPUs, passwords and users', () => {
  expect(containerCommand({ kind: 'podman', program: 'podman' }, member)).toEqual([
    ...[
      'podman',
      ...inside,
      '--authfile',
      '/runs/job_1-2/login/config.json',
      '--userns',
      'keep-id',
      ...limits,
    ],
    ...['--device', 'nvidia.com/gpu=4', '--device', 'nvidia.com/gpu=6', ...rest],
  ])
})

test('podman hands its streams down where it can', () => {
  const command = containerCommand({ kind: 'podman', program: 'podman', passesStreams: true }, member)
  expect(command.slice(command.indexOf('--log-driver')).slice(0, 2)).toEqual(['--log-driver', 'passthrough'])
  expect(['3.4.4 false', '4.3.1 true', '', '4.3.1 false', '5.0.0-dev false\n'].map(passesStreams)).toEqual([
    ...[false, false, false, true, true],
  ])
})

test('the password of a registry lies in a file that only its owner reads', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-login-'))
  writeLogin(folder, { registry: 'registry.example.org', username: 'ann', password: 'p' })
  const path = join(folder, names.login, 'config.json')
  expect(statSync(path).mode & 0o777).toBe(0o600)
  const auth = Buffer.from('ann:p').toString('base64')
  expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual({ auths: { 'registry.example.org': { auth } } })
  rmSync(folder, { recursive: true })
})

const podman = new Podman()
const engine = await findEngine(process.env)
afterAll(() => podman[Symbol.dispose]())
if (podman.missing !== undefined) console.warn(`skipped: ${podman.missing}`)

describe.skipIf(podman.missing !== undefined)('with podman', () => {
  const open = async (own = engine) => {
    const harness = await openLocal({ engine: async () => own })
    const container: ContainerDemand = {
      ...{ image, network: 'none' },
      mounts: [{ path: harness.folder, readOnly: false }],
    }
    const submit = (id: string, script: string, environment = {}) =>
      harness.launcher.submit({
        ...{
          id,
          command: ['/bin/sh', '-c', script],
          environment,
          folder: harness.folder,
          members: 1,
          container,
        },
      })
    const over = async (id: string) => {
      await harness.until(async () => isOver(await harness.launcher.observe(id)))
      const [first] = (await harness.launcher.observe(id)).members
      const { lines } = await harness.launcher.logs(id, { member: 0, bytesMax: 1 << 20 })
      return { member: first!, lines: lines.map(({ text }) => text) }
    }
    const says = (id: string, line: string) =>
      harness.until(async () => {
        const { lines } = await harness.launcher.logs(id, { member: 0, bytesMax: 1 << 20 })
        return lines.some(({ text }) => text === line)
      })
    return { harness, submit, over, says, [Symbol.asyncDispose]: () => harness[Symbol.asyncDispose]() }
  }

  /** podman behind a shell script of these lines. */
  const engineThat = (lines: string) => {
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-engine-'))
    const program = join(folder, 'podman')
    writeFileSync(program, `#!/bin/sh\n${lines}\n`, { mode: 0o755 })
    return {
      engine: { ...engine!, program },
      [Symbol.dispose]: () => rmSync(folder, { recursive: true }),
    }
  }

  test('a command runs in its image, is not root, finds its variables and folder, and has no network', async () => {
    await using world = await open()
    const script = 'id -u; echo $WORD; echo kept > result; cat /proc/net/dev; exit 5'
    expect(await world.submit('a', script, { WORD: 'said' })).toEqual({ ok: true })
    const { member, lines } = await world.over('a')
    expect(member).toMatchObject({ state: 'ended', exitCode: 5 })
    const user = process.getuid?.() === 0 ? '65534' : String(process.getuid?.())
    expect(lines.slice(0, 2)).toEqual([user, 'said'])
    expect(lines.filter((line) => /^ *\w+:/.test(line)).map((line) => line.trim().split(':')[0])).toEqual([
      'lo',
    ])
    expect(readFileSync(join(world.harness.folder, 'result'), 'utf8')).toBe('kept\n')
    expect(podman.containers()).toEqual([])
  })

  test('a stop reaches the command as SIGTERM, and who does not heed it is killed with its container', async () => {
    await using world = await open()
    await world.submit('kind', "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    await world.submit('deaf', "trap '' TERM; echo up; while :; do sleep 1; done")
    await world.says('kind', 'up')
    await world.says('deaf', 'up')
    await world.harness.launcher.cancel('kind', 60_000)
    const kind = await world.over('kind')
    expect([kind.member.exitCode, kind.lines]).toEqual([0, ['up', 'saved']])
    await world.harness.launcher.cancel('deaf', 100)
    expect((await world.over('deaf')).member.exitCode).not.toBe(0)
    expect(podman.containers()).toEqual([])
  })

  test('a stop reaches the command though its client would end by it, as podman does before it listens', async () => {
    using deaf = engineThat(`[ "$1" = run ] || exec ${engine!.program} "$@"
trap 'exit 0' TERM
setsid ${engine!.program} "$@" & wait $!`)
    await using world = await open(deaf.engine)
    await world.submit('a', "trap 'echo saved; exit 3' TERM; echo up; while :; do sleep 0.1; done")
    await world.says('a', 'up')
    await world.harness.launcher.cancel('a', 60_000)
    const { member, lines } = await world.over('a')
    expect([member.exitCode, lines]).toEqual([3, ['up', 'saved']])
  })

  test('a command that its client left gets its stop, and its end is the end of the member', async () => {
    // Told before there is a container, and lets it start nevertheless; no stop finds it while it is there itself.
    using leaves = engineThat(`case $1 in
  kill) [ -e "$0.told" ] && exit 1 ;;
  run)
    trap ': > "$0.told"; setsid ${engine!.program} "$@" & until [ -e ready ]; do sleep 0.1; done; rm "$0.told"; exit 0' TERM
    echo pulling
    while :; do sleep 0.1; done ;;
esac
exec ${engine!.program} "$@"`)
    await using world = await open(leaves.engine)
    await world.submit('a', "trap 'echo saved; exit 3' TERM; : > ready; while :; do sleep 0.1; done")
    await world.says('a', 'pulling')
    await world.harness.launcher.cancel('a', 600_000)
    const { member, lines } = await world.over('a')
    expect([member.exitCode, lines.includes('saved')]).toEqual([3, true])
  })

  test('a container that comes into being while its stop is on its way gets it, too', async () => {
    // The stop finds no container, and only then says so.
    using late = engineThat(`case $1 in
  run) echo starting; sleep 1 ;;
  kill) ${engine!.program} "$@" || { code=$?; sleep 3; exit $code; }; exit 0 ;;
esac
exec ${engine!.program} "$@"`)
    await using world = await open(late.engine)
    await world.submit('a', "trap 'echo saved; exit 3' TERM; echo up; while :; do sleep 0.1; done")
    await world.says('a', 'starting')
    await world.harness.launcher.cancel('a', 600_000)
    const { member, lines } = await world.over('a')
    expect([member.exitCode, lines]).toEqual([3, ['starting', 'up', 'saved']])
  })

  const emptyFile = 'while [ "$1" != --cidfile ]; do shift; done; : > "$2"'
  test.each([
    ['a stop while there is no container yet ends the wait for one', ':', 600_000],
    ['the file for the id of a container, which docker makes first, is none yet', emptyFile, 600_000],
    ['a member whose client was killed before there was a container never started', ':', 0],
  ])('%s', async (_, first, graceMs) => {
    using pulls = engineThat(`if [ "$1" = run ]; then ${first}; echo pulling; exec sleep 60; fi
exec ${engine!.program} "$@"`)
    await using world = await open(pulls.engine)
    await world.submit('a', 'echo up')
    await world.says('a', 'pulling')
    await world.harness.launcher.cancel('a', graceMs)
    const { member, lines } = await world.over('a')
    expect(member).toMatchObject({ state: 'ended', neverStarted: 'cancelled' })
    expect([member.exitCode, lines]).toEqual([undefined, ['pulling']])
    expect(podman.containers()).toEqual([])
  })

  test('an engine that takes its time to remove a container is let do so', async () => {
    using slow = engineThat(`[ "$1" = rm ] && sleep 2\nexec ${engine!.program} "$@"`)
    await using world = await open(slow.engine)
    await world.submit('deaf', "trap '' TERM; echo up; while :; do sleep 1; done")
    await world.says('deaf', 'up')
    // From a second behind the grace on, each look ends what is left of the member.
    await world.harness.launcher.cancel('deaf', 100)
    expect((await world.over('deaf')).member.state).toBe('ended')
    expect(podman.containers()).toEqual([])
  })

  test('a copy of a run, as a restored backup holds it, leaves the container of the original alone', async () => {
    await using world = await open()
    await world.submit('a', "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
    await world.says('a', 'up')
    const root = `${world.harness.root}-restored`
    cpSync(world.harness.root, root, { recursive: true })
    const copy = world.harness.at(root)
    expect((await copy.observe('a')).members).toMatchObject([{ state: 'lost' }])
    expect(await copy.remove('a')).toBe(true)
    expect((await world.harness.launcher.observe('a')).members).toMatchObject([{ state: 'running' }])
    expect(podman.containers()).toHaveLength(1)
  })

  test('a container whose wrapper is killed goes with it, and its member is lost', async () => {
    await using world = await open()
    await world.submit('a', "trap '' TERM; echo up; while :; do sleep 1; done")
    await world.says('a', 'up')
    const folder = memberFolder(join(world.harness.root, 'a'), 0)
    process.kill(readStored(processIdentity, join(folder, names.claim))!.pid, 'SIGKILL')
    expect((await world.over('a')).member.state).toBe('lost')
    expect(podman.containers()).toEqual([])
  })

  test('variables that are meant for the image do not keep its engine from being found', async () => {
    await using world = await open()
    const variables = { PATH: '/opt/conda/bin', HOME: '/data', TMPDIR: '/missing', LD_PRELOAD: '/missing.so' }
    expect(await world.submit('a', 'echo $PATH $HOME $TMPDIR $LD_PRELOAD', variables)).toEqual({ ok: true })
    expect((await world.over('a')).lines).toEqual(['/opt/conda/bin /data /missing /missing.so'])
  })

  test.skipIf(!engine?.passesStreams)(
    'a command writes straight into the log of its member, which it may open again',
    async () => {
      await using world = await open()
      const script = '/bin/busybox readlink /proc/self/fd/1; echo seen > /dev/stderr; echo last'
      expect(await world.submit('a', script)).toEqual({ ok: true })
      // A pipe of the engine, which copies, would have no name.
      expect((await world.over('a')).lines.sort()).toEqual([
        ...[expect.stringContaining('/out.pipe'), 'last', 'seen'],
      ])
    },
  )

  test('an image that is nowhere is the reason that the member gives', async () => {
    await using world = await open()
    const { harness } = world
    await harness.launcher.submit({
      ...{ id: 'a', command: ['true'], environment: {}, folder: harness.folder, members: 1 },
      container: { image: 'localhost/nobody-has-this:1', network: 'none', mounts: [] },
    })
    const { member } = await world.over('a')
    expect(member.exitCode).toBe(125)
    expect(member.message).toMatch(/^The container could not be started: .*nobody-has-this/)
  })
})

test('where nothing runs containers, a run with an image is refused with what to install', async () => {
  const harness: LocalHarness = await openLocal({ engine: async () => undefined })
  await using _ = harness
  const container: ContainerDemand = { image, network: 'none', mounts: [] }
  const answer = await harness.launcher.submit({
    ...{ id: 'a', command: ['true'], environment: {}, folder: harness.folder, members: 1, container },
  })
  expect(answer).toMatchObject({
    ok: false,
    code: 'no_engine',
    message: expect.stringContaining('apt-get install podman'),
  })
  expect(await harness.launcher.observe('a')).toMatchObject({ known: false })
})
