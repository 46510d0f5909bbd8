import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { isOver } from '../../src/control/launchers/launcher.ts'
import { labelled } from '../../src/control/launchers/local/member-processes.ts'
import { identify, isAlive, processIdentity } from '../../src/control/launchers/local/process-identity.ts'
import {
  memberFolder,
  names,
  readStored,
  startedProcess,
} from '../../src/control/launchers/local/run-folder.ts'
import { type LocalHarness, openLocal } from './local-harness.ts'
import { launcherSuite } from './suite.ts'

launcherSuite('local', () => openLocal())

const onLinux = process.platform === 'linux'

async function started(run: LocalHarness, id: string, command: readonly string[]) {
  await run.launcher.submit({ id, command, environment: {}, folder: run.folder, members: 1 })
  await run.until(async () => (await run.launcher.observe(id)).members[0]!.state === 'running')
  const folder = memberFolder(join(run.root, id), 0)
  const wrapper = readStored(processIdentity, join(folder, names.claim))!
  const command0 = readStored(startedProcess, join(folder, names.process))!.process
  return { folder, wrapper, command: command0 }
}

const over = (run: LocalHarness, id: string) => run.until(async () => isOver(await run.launcher.observe(id)))

test('a command whose wrapper is killed is killed too, and reported as lost', async () => {
  await using run = await openLocal()
  const { wrapper, command } = await started(run, 'a', run.programs.stubborn())
  process.kill(wrapper.pid, 'SIGKILL')
  await over(run, 'a')
  expect((await run.launcher.observe('a')).members).toMatchObject([{ state: 'lost' }])
  expect(isAlive(command)).toBe(false)
  // Lost is final: another look, by another server, says the same.
  expect((await run.restarted().observe('a')).members).toMatchObject([{ state: 'lost' }])
})

test.skipIf(!onLinux)('nothing that left the process group outlives its member', async () => {
  await using run = await openLocal()
  const { command } = await started(run, 'a', run.script('setsid sleep 600 &\necho $! > stray\nsleep 600'))
  await run.until(async () => labelled('a', 0, memberFolder(join(run.root, 'a'), 0)).length >= 3)
  process.kill(command.pid, 'SIGKILL')
  await over(run, 'a')
  await run.until(async () => labelled('a', 0, memberFolder(join(run.root, 'a'), 0)).length === 0)
})

test('a process that was given the id of a dead one is not taken for it', async () => {
  await using run = await openLocal()
  const { folder, wrapper } = await started(run, 'a', run.programs.waits())
  process.kill(wrapper.pid, 'SIGKILL')
  await run.until(async () => !isAlive(wrapper))
  // This test's process now has the dead wrapper's id, as far as the folder says.
  writeFileSync(join(folder, names.claim), JSON.stringify({ ...identify(process.pid)!, started: '1' }))
  await over(run, 'a')
  expect((await run.launcher.observe('a')).members).toMatchObject([{ state: 'lost' }])
})

test('processes of another boot of the machine are lost', async () => {
  await using run = await openLocal()
  const { folder, wrapper } = await started(run, 'a', run.programs.waits())
  writeFileSync(join(folder, names.claim), JSON.stringify({ ...wrapper, boot: 'earlier' }))
  await over(run, 'a')
  expect((await run.launcher.observe('a')).members).toMatchObject([{ state: 'lost' }])
})

test('a copy of a run, as a restored backup holds it, leaves the processes of the original alone', async () => {
  await using run = await openLocal()
  const { wrapper, command } = await started(run, 'a', run.programs.waits())
  const root = `${run.root}-restored`
  cpSync(run.root, root, { recursive: true })
  const copy = run.at(root)
  expect((await copy.observe('a')).members).toMatchObject([
    { state: 'lost', message: expect.stringMatching(/copy of its folder/) },
  ])
  await copy.cancel('a', 0)
  expect(await copy.remove('a')).toBe(true)
  expect([isAlive(wrapper), isAlive(command)]).toEqual([true, true])
  expect((await run.launcher.observe('a')).members).toMatchObject([{ state: 'running' }])
})

test('a run is known again by whatever path its folder is reached', async () => {
  await using run = await openLocal()
  await started(run, 'a', run.programs.waits())
  const link = `${run.root}-by-link`
  symlinkSync(run.root, link)
  expect((await run.at(link).observe('a')).members).toMatchObject([{ state: 'running' }])
})

test.skipIf(!onLinux)(
  'a process of a version that kept no number of a folder is known by its label',
  async () => {
    await using run = await openLocal()
    const { folder, wrapper } = await started(run, 'a', run.programs.waits())
    const { folder: _number, ...older } = wrapper
    writeFileSync(join(folder, names.claim), JSON.stringify(older))
    expect((await run.restarted().observe('a')).members).toMatchObject([{ state: 'running' }])
    const root = `${run.root}-restored`
    cpSync(run.root, root, { recursive: true })
    expect((await run.at(root).observe('a')).members).toMatchObject([{ state: 'lost' }])
    expect(isAlive(wrapper)).toBe(true)
  },
)

test('two servers that submit at once start a command once', async () => {
  await using run = await openLocal()
  const request = { id: 'a', command: run.programs.waits(), environment: {}, folder: run.folder, members: 1 }
  const servers = [run.launcher, run.restarted(), run.restarted()]
  await Promise.all(servers.map((server) => server.submit(request)))
  await run.until(async () => run.starts('a', 0) > 0)
  for (const server of servers) await server.submit(request)
  // The late wrappers have come and gone when only one of them is left.
  await run.until(async () => labelled('a', 0, memberFolder(join(run.root, 'a'), 0)).length <= 3)
  expect(run.starts('a', 0)).toBe(1)
})

test('a run goes on when the server that started it is killed with its whole process group', async () => {
  await using run = await openLocal()
  const child = join(import.meta.dirname, 'submit-child.ts')
  const server = spawn(process.execPath, [...runnerOf(child), child, run.root, run.folder], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(server.stdout!, 'data')
  process.kill(-server.pid!, 'SIGKILL')
  await once(server, 'exit')
  await over(run, 'from-child')
  expect((await run.launcher.observe('from-child')).members).toMatchObject([{ state: 'ended', exitCode: 5 }])
  const { lines } = await run.launcher.logs('from-child', { member: 0, bytesMax: 1000 })
  expect(lines.map(({ text }) => text)).toEqual(['begun', 'done'])
})

test('a command sees no variable of the server that is not let through', async () => {
  await using run = await openLocal()
  process.env.ROPEWAY_TEST_SECRET = 'hush'
  try {
    await run.launcher.submit({
      id: 'a',
      command: ['env'],
      environment: { GIVEN: 'yes' },
      folder: run.folder,
      members: 1,
    })
    await over(run, 'a')
  } finally {
    delete process.env.ROPEWAY_TEST_SECRET
  }
  const { lines } = await run.launcher.logs('a', { member: 0, bytesMax: 100_000 })
  const variables = lines.map(({ text }) => text)
  expect(variables).toContain('GIVEN=yes')
  expect(variables).toContain('ROPEWAY_RUN=a')
  expect(variables.some((line) => line.includes('hush'))).toBe(false)
})

test('arguments reach the program as they are, whatever a shell would make of them', async () => {
  await using run = await openLocal()
  const nasty = ['$(touch stolen)', '; touch stolen', '*', 'a b', "'"]
  await run.launcher.submit({
    id: 'a',
    command: ['printf', '%s\\n', ...nasty],
    environment: {},
    folder: run.folder,
    members: 1,
  })
  await over(run, 'a')
  const { lines } = await run.launcher.logs('a', { member: 0, bytesMax: 1000 })
  expect(lines.map(({ text }) => text)).toEqual(nasty)
  expect(() => readFileSync(join(run.folder, 'stolen'))).toThrow()
})

test('a script may open its own output again, and all of it is kept', async () => {
  await using run = await openLocal()
  const script = `echo plain; echo again > /dev/stderr; echo both | tee /dev/stderr; echo more > /dev/stdout
    i=0; while [ $i -lt 20000 ]; do echo "line $i of many"; i=$((i+1)); done; printf 'no end'`
  await run.launcher.submit({
    ...{ id: 'a', command: ['sh', '-c', script], environment: {}, folder: run.folder, members: 1 },
  })
  await over(run, 'a')
  const { lines, complete } = await run.launcher.logs('a', { member: 0, bytesMax: 1 << 24 })
  const of = (stream: string) => lines.filter((line) => line.stream === stream).map(({ text }) => text)
  expect(complete).toBe(true)
  expect(of('err')).toEqual(['again', 'both'])
  const many = Array.from({ length: 20_000 }, (_, index) => `line ${index} of many`)
  expect(of('out')).toEqual(['plain', 'both', 'more', ...many, 'no end'])
  // No pipe is left that another process could open.
  expect(readdirSync(memberFolder(join(run.root, 'a'), 0)).filter((name) => /pipe/.test(name))).toEqual([])
})

test('a program that cannot be executed says what to look at', async () => {
  await using run = await openLocal()
  const files = {
    'gone.sh': '#!/no/such/shell\necho never\n',
    'windows.sh': '#!/bin/sh\r\necho never\r\n',
    'plain.sh': '#!/bin/sh\necho never\n',
  }
  for (const [name, text] of Object.entries(files))
    writeFileSync(join(run.folder, name), text, { mode: name === 'plain.sh' ? 0o644 : 0o755 })
  const expected = {
    pyhton: /there is no program of this name in PATH$/,
    './missing.sh': /there is no such file$/,
    './gone.sh': /what its first line names, \/no\/such\/shell, is not there$/,
    './windows.sh': /first line names, \/bin\/sh, is not there: its lines end as on Windows/,
    './plain.sh': /it may not be executed \(chmod \+x\)$/,
  }
  for (const [at, [program, why]] of Object.entries(expected).entries()) {
    const id = `a${at}`
    await run.launcher.submit({ id, command: [program], environment: {}, folder: run.folder, members: 1 })
    await over(run, id)
    const [member] = (await run.launcher.observe(id)).members
    expect(member).toMatchObject({ state: 'ended', message: expect.stringMatching(why) })
    expect(member!.message).toContain(`${program} could not be started: `)
  }
})

test('a machine without mkfifo keeps the output too', async () => {
  await using run = await openLocal()
  const sh = spawnSync('sh', ['-c', 'command -v sh'], { encoding: 'utf8' }).stdout.trim()
  const before = process.env.PATH
  process.env.PATH = run.folder
  try {
    await run.launcher.submit({
      ...{ id: 'a', command: [sh, '-c', 'echo one; echo two >&2'], environment: {}, folder: run.folder },
      members: 1,
    })
  } finally {
    process.env.PATH = before
  }
  await over(run, 'a')
  const { lines } = await run.launcher.logs('a', { member: 0, bytesMax: 1 << 16 })
  expect(lines.map(({ stream, text }) => `${stream} ${text}`).sort()).toEqual(['err two', 'out one'])
})

test('what a server that was killed left half made or half removed is cleared by the next one', async () => {
  await using run = await openLocal()
  const dead = spawnSync('true').pid
  const [theirs, made, removed] = [`.a.${process.ppid}.new`, `.b.${dead}.new`, `.c.${dead}.gone`]
  for (const name of [theirs, made, removed]) mkdirSync(join(run.root, name, 'members'), { recursive: true })
  run.restarted()
  expect(readdirSync(run.root)).toEqual([theirs])
})

test('a path is no run id', async () => {
  await using run = await openLocal()
  const request = { command: ['true'], environment: {}, folder: run.folder, members: 1 }
  for (const id of ['../a', 'a/b', '', '.', '..', '-x', 'a'.repeat(101)])
    expect(await run.launcher.submit({ id, ...request })).toMatchObject({ ok: false, code: 'invalid' })
})
