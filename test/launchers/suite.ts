/** What every launcher promises. A harness says how time passes and how to write programs for it. */
import { expect, test } from 'vitest'
import {
  isOver,
  type Launcher,
  type MemberObservation,
  type Observation,
  type RunRequest,
} from '../../src/control/launchers/launcher.ts'

export interface Programs {
  exits(code: number): string[]
  /** Prints the lines and ends with 0. */
  prints(...lines: string[]): string[]
  /** Prints the value of a variable and ends. */
  printsVariable(name: string): string[]
  /** Runs until SIGTERM, then ends with 0. */
  waits(): string[]
  /** Runs until it is killed. */
  stubborn(): string[]
  missing(): string[]
}

export interface LauncherHarness extends AsyncDisposable {
  launcher: Launcher
  programs: Programs
  folder: string
  /** A launcher that knows only what is outside: what a server has after its death. */
  restarted(): Launcher
  /** Lets time pass until the condition holds; throws when it does not come to hold. */
  until(condition: () => Promise<boolean>): Promise<void>
  /** How often the command of a member was started, ever. */
  starts(run: string, member: number): number
}

export function launcherSuite(name: string, open: () => Promise<LauncherHarness>): void {
  const fresh = async () => {
    const harness = await open()
    const { launcher, folder } = harness
    const request = (id: string, command: readonly string[], more: Partial<RunRequest> = {}): RunRequest => ({
      id,
      command,
      environment: {},
      folder,
      members: 1,
      ...more,
    })
    const seen = async (id: string, condition: (observation: Observation) => boolean) => {
      await harness.until(async () => condition(await launcher.observe(id)))
      return await launcher.observe(id)
    }
    const over = (id: string) => seen(id, isOver)
    const running = (id: string) => seen(id, ({ members }) => members.every(inState('running')))
    const lines = async (id: string, member = 0) => {
      const { lines, complete } = await launcher.logs(id, { member, bytesMax: 1 << 20 })
      expect(complete).toBe(true)
      return lines.map(({ text }) => text)
    }
    return {
      harness,
      launcher,
      request,
      seen,
      over,
      running,
      lines,
      [Symbol.asyncDispose]: () => harness[Symbol.asyncDispose](),
    }
  }
  const inState = (state: string) => (member: MemberObservation) => member.state === state
  const say = (what: string) => `${name}: ${what}`

  test(say('a run that was never submitted is unknown'), async () => {
    await using run = await fresh()
    expect(await run.launcher.observe('nobody')).toEqual({ known: false, cancelled: false, members: [] })
    expect(await run.launcher.listOwned()).toEqual([])
  })

  test(say('a command ends with its exit code, and what it printed is there'), async () => {
    await using run = await fresh()
    const { programs } = run.harness
    expect(await run.launcher.submit(run.request('a', programs.prints('one', 'two')))).toEqual({ ok: true })
    expect((await run.over('a')).members).toMatchObject([{ index: 0, state: 'ended', exitCode: 0 }])
    expect(await run.lines('a')).toEqual(['one', 'two'])
    await run.launcher.submit(run.request('b', programs.exits(7)))
    expect((await run.over('b')).members).toMatchObject([{ state: 'ended', exitCode: 7 }])
  })

  test(say('submitting again starts nothing twice, also by a server that remembers nothing'), async () => {
    await using run = await fresh()
    const request = run.request('a', run.harness.programs.waits())
    const twice = [run.launcher.submit(request), run.launcher.submit(request)]
    expect(await Promise.all(twice)).toEqual([{ ok: true }, { ok: true }])
    await run.running('a')
    expect(await run.harness.restarted().submit(request)).toEqual({ ok: true })
    await run.launcher.cancel('a', 60_000)
    await run.over('a')
    expect(await run.launcher.submit(request)).toMatchObject({ ok: false, code: 'cancelled' })
    expect(run.harness.starts('a', 0)).toBe(1)
  })

  test(say('an ended run stays ended when it is submitted again'), async () => {
    await using run = await fresh()
    const request = run.request('a', run.harness.programs.exits(0))
    await run.launcher.submit(request)
    const ended = await run.over('a')
    expect(await run.launcher.submit(request)).toEqual({ ok: true })
    expect(await run.launcher.observe('a')).toEqual(ended)
    expect(run.harness.starts('a', 0)).toBe(1)
  })

  test(say('another request under a known id is refused'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.exits(0)))
    const other = run.request('a', run.harness.programs.exits(1))
    expect(await run.launcher.submit(other)).toMatchObject({ ok: false, code: 'id_taken' })
    await run.over('a')
  })

  test(say('a run survives the server that started it'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.waits()))
    await run.running('a')
    const later = run.harness.restarted()
    expect(await later.listOwned()).toEqual(['a'])
    expect((await later.observe('a')).members).toMatchObject([{ state: 'running' }])
    await later.cancel('a', 60_000)
    await run.over('a')
  })

  test(say('a cancel asks first, and kills what does not listen after the grace'), async () => {
    await using run = await fresh()
    const { programs } = run.harness
    await run.launcher.submit(run.request('polite', programs.waits()))
    await run.launcher.submit(run.request('stubborn', programs.stubborn()))
    await run.running('polite')
    await run.running('stubborn')
    await run.launcher.cancel('polite', 60_000)
    await run.launcher.cancel('stubborn', 200)
    expect((await run.over('polite')).members).toMatchObject([{ state: 'ended', exitCode: 0 }])
    const [killed] = (await run.over('stubborn')).members
    expect(killed).toMatchObject({ state: 'ended', signal: 'SIGKILL' })
    expect(killed).not.toHaveProperty('exitCode')
  })

  test(say('a second cancel may shorten the grace, never lengthen it'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.stubborn()))
    await run.running('a')
    await run.launcher.cancel('a', 3_600_000)
    await run.launcher.cancel('a', 100)
    await run.launcher.cancel('a', 3_600_000)
    expect((await run.over('a')).members).toMatchObject([{ signal: 'SIGKILL' }])
  })

  test(say('a submit that arrives after its cancel starts nothing'), async () => {
    await using run = await fresh()
    await run.launcher.cancel('a', 0)
    expect(isOver(await run.launcher.observe('a'))).toBe(true)
    const late = await run.launcher.submit(run.request('a', run.harness.programs.exits(0)))
    expect(late).toMatchObject({ ok: false, code: 'cancelled' })
    expect(isOver(await run.launcher.observe('a'))).toBe(true)
    expect(run.harness.starts('a', 0)).toBe(0)
  })

  test(say('members have their own environment and their own log'), async () => {
    await using run = await fresh()
    const memberEnvironments = [{ RANK: 'first' }, { RANK: 'second' }]
    const more = { members: 2, memberEnvironments, environment: { RANK: 'nobody' } }
    await run.launcher.submit(run.request('a', run.harness.programs.printsVariable('RANK'), more))
    expect((await run.over('a')).members.map(({ index }) => index)).toEqual([0, 1])
    expect([await run.lines('a', 0), await run.lines('a', 1)]).toEqual([['first'], ['second']])
  })

  test(say('a log is read on from where the last page ended'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.prints('one', 'two')))
    await run.over('a')
    const { cursor } = await run.launcher.logs('a', { member: 0, bytesMax: 1 << 20 })
    const rest = await run.launcher.logs('a', { member: 0, bytesMax: 1 << 20, cursor })
    expect(rest).toEqual({ lines: [], cursor, skipped: false, complete: true })
  })

  test(say('devices are given to one at a time and come back at the end'), async () => {
    await using run = await fresh()
    const { programs } = run.harness
    const demand = { members: 2, devices: { type: 'h100', perMember: 1 } }
    await run.launcher.submit(run.request('a', programs.waits(), demand))
    const { members } = await run.running('a')
    expect(members.map(({ devices }) => devices)).toEqual([[0], [1]])
    const refused = await run.launcher.submit(run.request('b', programs.exits(0), demand))
    expect(refused).toMatchObject({ ok: false, code: 'no_devices' })
    await run.launcher.cancel('a', 60_000)
    await run.over('a')
    expect(await run.launcher.submit(run.request('b', programs.exits(0), demand))).toEqual({ ok: true })
    await run.over('b')
  })

  test(say('scaling starts members under new indices and cancels the highest'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.waits()))
    const live = (count: number) =>
      run.seen(
        'a',
        ({ members }) =>
          members.filter(inState('running')).length === count && !members.some(inState('starting')),
      )
    const indices = ({ members }: Observation) => members.filter(inState('running')).map(({ index }) => index)
    await live(1)
    expect(await run.launcher.scale('a', 2, 60_000)).toEqual({ ok: true })
    expect(await run.launcher.scale('a', 2, 60_000)).toEqual({ ok: true })
    expect(indices(await live(2))).toEqual([0, 1])
    await run.launcher.scale('a', 1, 60_000)
    expect(indices(await live(1))).toEqual([0])
    await run.launcher.scale('a', 2, 60_000)
    expect(indices(await live(2))).toEqual([0, 2])
    await run.launcher.cancel('a', 60_000)
    await run.over('a')
    expect(await run.launcher.scale('a', 3, 0)).toMatchObject({ ok: false, code: 'cancelled' })
  })

  test(say('a program that is not there ends with a message'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.missing()))
    const [member] = (await run.over('a')).members
    expect(member).toMatchObject({
      state: 'ended',
      message: expect.stringContaining('could not be started'),
      neverStarted: 'failed',
    })
    expect(member).not.toHaveProperty('exitCode')
  })

  test(say('what is live cannot be removed, and what is removed is gone'), async () => {
    await using run = await fresh()
    await run.launcher.submit(run.request('a', run.harness.programs.waits()))
    await run.running('a')
    expect(await run.launcher.remove('a')).toBe(false)
    await run.launcher.cancel('a', 60_000)
    await run.over('a')
    expect(await run.launcher.remove('a')).toBe(true)
    expect(await run.launcher.remove('a')).toBe(true)
    expect(await run.launcher.listOwned()).toEqual([])
  })
}
