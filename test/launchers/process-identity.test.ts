import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { killMember } from '../../src/control/launchers/local/member-processes.ts'
import {
  folderLabel,
  identify,
  identifyChild,
  isAlive,
  memberLabel,
  type ProcessIdentity,
  runLabel,
} from '../../src/control/launchers/local/process-identity.ts'

const onLinux = process.platform === 'linux'
const hasPython = spawnSync('python3', ['-c', 'import ctypes']).status === 0

/** A shell that leads a process group, once it has printed something. */
async function shell(script: string, environment: Record<string, string> = {}) {
  const child = spawn('sh', ['-c', script], {
    ...{ detached: true, stdio: ['ignore', 'pipe', 'inherit'] },
    env: { PATH: process.env.PATH, ...environment },
  })
  const command = identifyChild(child.pid!)!
  const [said] = (await once(child.stdout!, 'data')) as [Buffer]
  return { child, command, said: said.toString().trim() }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

const folder = '/runs/one/members/0'
const killed = (command: ProcessIdentity | undefined, asParent: boolean) =>
  killMember({ run: 'one', member: 0, folder, command, asParent })
/** Whatever else becomes another program on this machine is waited for too. */
const nothingLeft = (command: ProcessIdentity | undefined, asParent: boolean) =>
  expect.poll(() => killed(command, asParent), { interval: 5 }).toBe(0)

test.skipIf(!onLinux)('a command is ended with its group, and counted until all of it is gone', async () => {
  const { child, command, said } = await shell('sleep 600 & echo $!; wait')
  expect(killed(command, false)).toBeGreaterThanOrEqual(2)
  await nothingLeft(command, false)
  await ended(child)
  expect(identify(Number(said))).toBeUndefined()
})

test.skipIf(!onLinux)('what carries the labels is ended wherever it has gone', async () => {
  const labels = { [runLabel]: 'one', [memberLabel]: '0', [folderLabel]: folder }
  const { child, said } = await shell('setsid sh -c "echo \\$\\$; sleep 600"; true', labels)
  expect(killed(undefined, false)).toBeGreaterThanOrEqual(2)
  await nothingLeft(undefined, false)
  await ended(child)
  expect(identify(Number(said))).toBeUndefined()
  // Another member, and a run of the same id of another service on this machine.
  for (const change of [{ [memberLabel]: '1' }, { [folderLabel]: '/restored/one/members/0' }]) {
    const { child: other } = await shell('echo ready; sleep 600', { ...labels, ...change })
    await nothingLeft(undefined, false)
    expect(identify(other.pid!)).toBeDefined()
    process.kill(-other.pid!, 'SIGKILL')
  }
})

test.skipIf(!onLinux)('a process is not missed while it becomes another program, and another', async () => {
  const labels = { [runLabel]: 'one', [memberLabel]: '0', AGAIN: 'exec sh -c "$AGAIN"' }
  for (let round = 0; round < 20; round++) {
    const { child } = await shell('echo ready; exec sh -c "$AGAIN"', labels)
    await nothingLeft(undefined, false)
    expect(identify(child.pid!)).toBeUndefined()
  }
})

test.skipIf(!onLinux)(
  'a stranger that has the number of a dead command or of its group is left alone',
  async () => {
    const { child, command } = await shell('echo ready; sleep 600')
    // The same number, but another start: the command is long dead.
    await nothingLeft({ ...command, started: '1' }, true)
    await nothingLeft({ ...command, boot: 'earlier' }, true)
    expect(isAlive(command)).toBe(true)
    process.kill(-child.pid!, 'SIGKILL')
  },
)

test.skipIf(!onLinux)(
  'a group whose leader is gone is ended by its parent, by others only what is certainly of it',
  async () => {
    const { child, command, said } = await shell('sleep 600 & named=$!; env -i sleep 600 & echo $named $!')
    await ended(child)
    const [named, nameless] = said.split(' ').map(Number) as [number, number]
    const look = () => {
      killed(command, false)
      return identify(nameless)
    }
    await expect.poll(look, { interval: 5 }).toBeUndefined()
    expect(identify(named)).toBeDefined()
    await nothingLeft(command, true)
    expect(identify(named)).toBeUndefined()
  },
)

test.skipIf(!onLinux || !hasPython)(
  'a process whose first thread has ended is alive while another thread is',
  async () => {
    const program = [
      'import ctypes, threading, time',
      'threading.Thread(target=time.sleep, args=(600,)).start()',
      'print("ready", flush=True)',
      // The system call "exit" ends this thread alone.
      'ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[__import__("platform").machine()], 0)',
    ].join('\n')
    const { child, command } = await shell(`exec python3 -c '${program}'`)
    const isZombie = () =>
      spawnSync('ps', ['-o', 'stat=', '-p', `${child.pid}`])
        .stdout.toString()
        .startsWith('Z')
    await expect.poll(isZombie, { interval: 5 }).toBe(true)
    expect(isAlive(command)).toBe(true)
    expect(killed(command, false)).toBeGreaterThanOrEqual(1)
    await nothingLeft(command, false)
    await ended(child)
  },
)
