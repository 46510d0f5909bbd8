import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import { PrefixAffinity } from '../../src/control/gateway/affinity.ts'
import { choose } from '../../src/control/gateway/choice.ts'
import { Hold } from '../../src/control/gateway/hold.ts'
import { ReplicaTable } from '../../src/control/gateway/replicas.ts'
import { Roster } from '../../src/control/gateway/roster.ts'
import { versionFor } from '../../src/control/gateway/shares.ts'
import { Window } from '../../src/control/gateway/windows.ts'
import { post } from '../openai/harness.ts'
import { gatewayOver } from './harness.ts'
import { deployment, scriptedReplica, version } from './scripted-replica.ts'

const replicas = ['a', 'b', 'c', 'd'].map((id) => ({ id, url: `http://${id}`, state: 'ready' as const }))
const noPrompt = { chain: [], characters: 0 }

test('a prompt goes where its beginning was computed, until that replica has too much else to do', () => {
  const roster = new Roster(new ManualClock(), 1)
  const text = 'The same long beginning. '.repeat(400)
  const shape = (end: string) => ({
    chain: PrefixAffinity.chain('s', text + end),
    characters: text.length + 20,
  })
  const home = roster.choose(version(replicas), shape('one'), new Set())!
  roster.begin(home, shape('one'))()
  for (let i = 0; i < 20; i++)
    expect(roster.choose(version(replicas), shape(`end ${i}`), new Set())).toBe(home)
  for (let i = 0; i < 4; i++) roster.begin(home, noPrompt)
  expect(roster.choose(version(replicas), shape('late'), new Set())).not.toBe(home)
  expect(PrefixAffinity.chain('other', text)[0]).not.toBe(PrefixAffinity.chain('s', text)[0])
})

test('of two replicas drawn at random the less loaded one is taken, so none is far above the others', () => {
  const random = new Random(3)
  const load = [0, 0, 0, 0, 0, 0, 0, 0]
  for (let i = 0; i < 800; i++) {
    const candidates = load.map((own, id) => ({ id: String(id), load: own, knownCharacters: 0 }))
    load[Number(choose(candidates, 100, random)!.id)]!++
  }
  expect(Math.max(...load) - Math.min(...load)).toBeLessThan(8)
})

test('a replica that fails is left alone for a while that doubles, and is back after one success', () => {
  const clock = new ManualClock()
  const roster = new Roster(clock, 1, { failuresMax: 3, ejectMs: 1000 })
  expect([roster.failed('a', false), roster.failed('a', false), roster.failed('a', false)]).toEqual([
    false,
    false,
    true,
  ])
  clock.advance(999)
  expect(roster.isEjected('a')).toBe(true)
  clock.advance(1)
  expect(roster.isEjected('a')).toBe(false)
  expect(roster.failed('a', true)).toBe(true)
  clock.advance(1999)
  expect(roster.isEjected('a')).toBe(true)
  for (let i = 0; i < 50; i++) expect(roster.choose(version(replicas), noPrompt, new Set())!.id).not.toBe('a')
  roster.succeeded('a')
  expect(roster.isEjected('a')).toBe(false)
  expect(roster.failed('a', true)).toBe(true)
  // With nothing better, one that was ejected is still asked.
  expect(roster.choose(version(replicas.slice(0, 1)), noPrompt, new Set())!.id).toBe('a')
})

test("load is a replica's last word and what was sent and came back since", () => {
  const clock = new ManualClock()
  const roster = new Roster(clock, 1)
  const end = roster.begin(replicas[0]!, noPrompt)
  roster.heard('a', { running: 3, waiting: 2, cacheBlocks: { free: 1, cached: 0, held: 1 } })
  roster.begin(replicas[0]!, noPrompt)
  expect(roster.load('a')).toBe(6)
  end()
  expect(roster.load('a')).toBe(5)
  clock.advance(60_000)
  expect(roster.load('a')).toBe(1)
})

test('a user keeps its version while shares stay, and a growing canary takes users from others only', () => {
  const users = Array.from({ length: 2000 }, (_, i) => `user ${i}`)
  const at = (share: number) => {
    const versions = [version([], { id: 'old', share: 100 - share }), version([], { id: 'new', share })]
    return users.map((user) => versionFor('stories', versions, user).id)
  }
  const [none, ten, half, all] = [at(0), at(10), at(50), at(100)]
  expect(none.every((id) => id === 'old') && all.every((id) => id === 'new')).toBe(true)
  const onNew = ten.filter((id) => id === 'new').length
  expect(onNew).toBeGreaterThan(150)
  expect(onNew).toBeLessThan(250)
  expect(ten.every((id, i) => id === 'old' || half[i] === 'new')).toBe(true)
})

test('a window forgets what is older than it and is right about percentiles to five in a hundred', () => {
  const clock = new ManualClock()
  const window = new Window(clock)
  for (let i = 0; i < 100; i++) window.observe(10_000)
  clock.advance(120_000)
  for (let ms = 1; ms <= 1000; ms++) window.observe(ms)
  const { count, p50, p99 } = window.summary(60_000)!
  expect(count).toBe(1000)
  expect(Math.abs(p50 / 500 - 1)).toBeLessThan(0.1)
  expect(Math.abs(p99 / 990 - 1)).toBeLessThan(0.1)
  expect(window.summary(600_000)!.count).toBe(1100)
})

test('a request of a deployment without replicas wakes it once and waits, its stream saying so, until one is ready', async () => {
  await using replica = await scriptedReplica('a')
  const woken: string[] = []
  await using through = await gatewayOver([deployment('stories')], {
    wake: (name) => {
      woken.push(name)
      return { progress: () => 'loading weights' }
    },
  })
  const ask = async (stream: boolean) => {
    const body = { model: 'stories', prompt: 'Once', max_tokens: 3, stream }
    return await post(`${through.url}/v1/completions`, body)
  }
  const stream = await ask(true)
  const whole = ask(false)
  expect(woken).toEqual(['stories'])
  through.table.replaceDeployment(deployment('stories', { versions: [version([replica.replica])] }))
  expect(await stream.text()).toMatch(/^: waiting: loading weights\n\n[\s\S]*data: \[DONE\]\n\n$/)
  expect((await whole).status).toBe(200)
})

test('a request whose client left before it came to wait does not wait', async () => {
  const woken: string[] = []
  const hold = new Hold(new ReplicaTable({ deployments: [deployment('stories')] }), (name) => {
    woken.push(name)
    return undefined
  })
  const waits = hold.until(
    'stories',
    () => false,
    AbortSignal.abort(new Error('gone')),
    () => {},
  )
  await expect(waits).rejects.toThrow('gone')
  expect([woken, hold.held('stories')]).toEqual([[], 0])
})

test('a request that waited in vain for a replica is refused with the time after which to come again', async () => {
  await using through = await gatewayOver([deployment('stories')], { limits: { holdMs: 20 } })
  const answer = await post(`${through.url}/v1/completions`, { model: 'stories', prompt: 'Once' })
  expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '5'])
  expect(await answer.json()).toMatchObject({ error: { code: 'deployment_not_ready' } })
})
