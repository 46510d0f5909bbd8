/** Members whose wrapper is killed, stands still, or comes late, at each step that it takes. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { build } from 'tsdown'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { isOver } from '../../src/control/launchers/launcher.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { wrapperLateMs } from '../../src/control/launchers/local/member.ts'
import { labelled } from '../../src/control/launchers/local/member-processes.ts'
import { identify } from '../../src/control/launchers/local/process-identity.ts'
import { memberFolder } from '../../src/control/launchers/local/run-folder.ts'

const base = mkdtempSync(join(tmpdir(), 'ropeway-cut-short-'))
const bundle = join(base, 'bundle')
const wrapper = new URL(`file://${bundle}/wrapper.mjs`)
const atOnce = 6
let steps: number[] = []

/** Never ends by itself, has a child outside of its process group, and says that it was started. */
const command = [
  ...['sh', '-c'],
  'echo x >> "starts-$ROPEWAY_RUN"; setsid sleep 600 & trap "" TERM; while :; do sleep 600; done',
]

class Member {
  readonly run: string
  readonly launcher: LocalLauncher
  /** The member's. */
  readonly folder: string
  readonly #work: string
  aheadMs = 0

  constructor(name: string, root = join(base, name)) {
    this.run = name
    const clock = { ...systemClock, unixMs: () => systemClock.unixMs() + this.aheadMs }
    this.launcher = new LocalLauncher({ root: join(root, 'runs'), devices: {}, wrapper, clock })
    this.folder = memberFolder(join(root, 'runs', name), 0)
    this.#work = join(root, 'work')
    mkdirSync(this.#work)
  }

  /** A secret may differ when a submit is repeated. */
  async submit(stopBefore: number): Promise<void> {
    const secrets = { STOP_BEFORE: String(stopBefore) }
    const request = { id: this.run, command, environment: {}, folder: this.#work, members: 1, secrets }
    expect(await this.launcher.submit(request)).toEqual({ ok: true })
  }

  async state(): Promise<string> {
    return (await this.launcher.observe(this.run)).members[0]!.state
  }

  async isOver(): Promise<boolean> {
    return isOver(await this.launcher.observe(this.run))
  }

  /** Its wrapper, when it stands still. */
  get stopped(): number | undefined {
    return labelled(this.run, 0, this.folder).find((pid) => stateOf(pid) === 'T')
  }

  /** How many processes of it there are, without wrappers. */
  get processes(): number {
    return labelled(this.run, 0, this.folder).filter(hasCommand).length
  }

  get starts(): number {
    return readIfThere(join(this.#work, `starts-${this.run}`)).split('\n').length - 1
  }

  /** Brings it to where its wrapper stands still; the last steps are those of its end, so it is cancelled for them. */
  async stopBefore(step: number): Promise<number> {
    await this.submit(step)
    await until(async () => this.stopped !== undefined || (await this.state()) === 'running')
    if (this.stopped === undefined) await this.launcher.cancel(this.run, 0)
    await until(() => this.stopped !== undefined)
    return this.stopped!
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    return ''
  }
}

const stateOf = (pid: number) => readIfThere(`/proc/${pid}/stat`).split(') ').at(-1)![0]
/** Of a wrapper, and of what has ended since, none. */
const hasCommand = (pid: number) => /^(?!.*wrapper\.mjs)./s.test(readIfThere(`/proc/${pid}/cmdline`))

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + 90_000
  while (!(await condition())) {
    expect(performance.now(), `waiting until ${condition}`).toBeLessThan(endMs)
    await delay(15)
  }
}

/** Takes a fresh member to each step that a wrapper takes, several at once. */
async function eachStep(name: string, take: (member: Member, wrapper: number) => Promise<void>) {
  const left = [...steps]
  const some = async () => {
    for (let step = left.shift(); step !== undefined; step = left.shift()) {
      const member = new Member(`${name}-${step}`)
      await take(member, await member.stopBefore(step))
      expect(member.processes, `${name} before step ${step}`).toBe(0)
      expect(member.starts, `${name} before step ${step}`).toBeLessThanOrEqual(1)
      await until(() => member.launcher.remove(member.run))
      await until(() => labelled(member.run, 0, member.folder).length === 0)
      expect(await member.launcher.listOwned()).toEqual([])
    }
  }
  await Promise.all(Array.from({ length: atOnce }, some))
}

describe.skipIf(process.platform !== 'linux')('whatever happens to a wrapper, at whatever step', () => {
  beforeAll(async () => {
    // In one file it starts five times as fast as from its sources.
    await build({
      ...{ entry: { wrapper: join(import.meta.dirname, 'stopping-wrapper.ts') }, outDir: bundle },
      ...{ format: 'esm', platform: 'node', target: 'node20', dts: false, logLevel: 'error', config: false },
      ...{ deps: { alwaysBundle: [/./] }, outExtensions: () => ({ js: '.mjs' }) },
    })
    const whole = new Member('whole')
    await whole.submit(0)
    await until(async () => (await whole.state()) === 'running')
    await whole.launcher.cancel(whole.run, 0)
    const said = join(base, 'whole', 'runs', 'whole', 'members', '0', 'wrapper.log')
    await until(() => readFileSync(said, 'utf8').includes('steps'))
    const count = Number(/steps (\d+)/.exec(readFileSync(said, 'utf8'))![1])
    steps = Array.from({ length: count }, (_, index) => index + 1)
    expect(count).toBeGreaterThan(12)
  })

  afterAll(() => rmSync(base, { recursive: true, force: true, maxRetries: 9 }))

  test('a run whose wrapper is killed is over only when nothing of it runs', async () => {
    await eachStep('killed', async (member, pid) => {
      process.kill(pid, 'SIGKILL')
      await until(() => identify(pid) === undefined)
      if ((await member.state()) === 'starting') {
        // It was nobody's yet: whoever submits again starts it.
        await member.submit(0)
        await until(async () => (await member.state()) === 'running')
        await member.launcher.cancel(member.run, 0)
      }
      await until(() => member.isOver())
    })
  })

  test('a cancel ends a run whose wrapper is killed though nobody looks at it again', async () => {
    await eachStep('unseen', async (member, pid) => {
      process.kill(pid, 'SIGKILL')
      await until(() => identify(pid) === undefined)
      await member.launcher.cancel(member.run, 60_000)
      await until(() => labelled(member.run, 0, member.folder).length === 0)
      await until(() => member.isOver())
    })
  })

  test('a cancelled run whose wrapper stands still is ended without it, and what was removed does not come back', async () => {
    await eachStep('still', async (member, pid) => {
      await member.launcher.cancel(member.run, 0)
      const { starts } = member
      if (await member.isOver()) {
        expect(await member.launcher.remove(member.run)).toBe(true)
        process.kill(pid, 'SIGCONT')
        await until(() => labelled(member.run, 0, member.folder).length === 0)
        expect(member.starts).toBe(starts)
      } else {
        member.aheadMs = wrapperLateMs
        await until(() => member.isOver())
      }
    })
  })

  test('a wrapper that goes on after a cancel ends what it started', async () => {
    await eachStep('late', async (member, pid) => {
      await member.launcher.cancel(member.run, 0)
      process.kill(pid, 'SIGCONT')
      await until(() => member.isOver())
    })
  })
})
