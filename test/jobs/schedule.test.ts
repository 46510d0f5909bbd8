import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { type ActiveJob, planJobs, type Quota, type WaitingJob } from '../../src/control/jobs/schedule.ts'

let count = 0
const waits = (id: string, more: Partial<WaitingJob> & { devices?: number } = {}): WaitingJob => ({
  id,
  project: 'p',
  priority: 50,
  queuedAt: count++,
  notBefore: 0,
  demand: { type: 'h100', devices: more.devices ?? 1 },
  ...more,
})
const runs = (id: string, more: Partial<ActiveJob> & { devices?: number } = {}): ActiveJob => ({
  id,
  project: 'p',
  priority: 50,
  startedAt: count++,
  demand: { type: 'h100', devices: more.devices ?? 1 },
  cluster: 'a',
  stopping: false,
  ...more,
})
const a4 = { name: 'a', slots: { h100: 4 }, open: true }

function plan(waiting: WaitingJob[], active: ActiveJob[] = [], quotas: Quota[] = [], clusters = [a4]) {
  const { placements, preemptions, waiting: why } = planJobs(waiting, active, clusters, quotas, 1000)
  return { placed: placements.map(({ job }) => job), preempted: preemptions.map(({ job }) => job), why }
}

test('higher priority goes first, then who came first', () => {
  const jobs = [
    waits('low', { priority: 10 }),
    waits('first'),
    waits('second'),
    waits('high', { priority: 90 }),
  ]
  expect(plan(jobs).placed).toEqual(['high', 'first', 'second', 'low'])
})

test('among equals the project that uses least goes first', () => {
  const jobs = ['1', '2', '3'].map((id) => waits(`big${id}`, { project: 'big' }))
  const one = waits('small', { project: 'small' })
  expect(plan([...jobs, one]).placed).toEqual(['big1', 'small', 'big2', 'big3'])
  expect(plan([...jobs, one], [runs('r', { project: 'big' })]).placed).toEqual(['small', 'big1', 'big2'])
})

test('a large job at its turn is not passed by smaller ones behind it', () => {
  const result = plan([waits('large', { devices: 4 }), waits('little')], [runs('r')])
  expect(result.placed).toEqual([])
  expect(result.why.get('large')).toEqual({ code: 'busy', free: 3, preempting: false })
  expect(result.why.get('little')).toEqual({ code: 'behind', job: 'large' })
})

test('jobs for other devices or other clusters pass a blocked one', () => {
  const clusters = [a4, { name: 'b', slots: { h100: 1, cpu: 2 }, open: true }]
  const jobs = [
    waits('large', { devices: 4 }),
    waits('cpu', { demand: { type: 'cpu', devices: 1 } }),
    waits('b', { cluster: 'b' }),
  ]
  expect(plan(jobs, [runs('r')], [], clusters).placed).toEqual(['cpu', 'b'])
})

test('a quota holds back its project only', () => {
  const quotas = [{ project: 'p', type: 'h100', devices: 1 }]
  const jobs = [waits('one'), waits('two'), waits('other', { project: 'q' })]
  const result = plan(jobs, [], quotas)
  expect(result.placed).toEqual(['one', 'other'])
  expect(result.why.get('two')).toEqual({ code: 'quota', used: 1, allowed: 1 })
})

test('lower priority makes room, the newest first and no more than needed', () => {
  const active = [
    runs('old', { priority: 10 }),
    runs('new', { priority: 10 }),
    runs('equal', { priority: 50 }),
    runs('lowest', { priority: 1 }),
  ]
  const jobs = [waits('urgent', { devices: 2 })]
  expect(plan(jobs, active).preempted).toEqual(['lowest', 'new'])
  expect(plan(jobs, active).placed).toEqual([])
})

test('nothing is preempted in vain, nor twice', () => {
  const equal = [runs('x', { priority: 50, devices: 3 }), runs('low', { priority: 10 })]
  expect(plan([waits('urgent', { devices: 2 })], equal).preempted).toEqual([])
  const leaving = [runs('x', { priority: 50, devices: 3 }), runs('low', { priority: 10, stopping: true })]
  const result = plan([waits('urgent'), waits('next')], leaving)
  expect(result.preempted).toEqual([])
  expect(result.why.get('next')).toEqual({ code: 'behind', job: 'urgent' })
})

test('why says what a job waits for', () => {
  const closed = { ...a4, name: 'closed', open: false }
  const { why } = plan(
    [
      waits('later', { notBefore: 5000 }),
      waits('nowhere', { demand: { type: 'tpu', devices: 1 } }),
      waits('inherited', { demand: { type: 'constructor', devices: 1 } }),
      waits('huge', { devices: 5 }),
      waits('shut', { cluster: 'closed' }),
    ],
    [],
    [],
    [a4, closed],
  )
  expect(Object.fromEntries(why)).toEqual({
    later: { code: 'later', untilMs: 5000 },
    nowhere: { code: 'no_cluster' },
    inherited: { code: 'no_cluster' },
    huge: { code: 'too_large', largest: 4 },
    shut: { code: 'no_cluster' },
  })
})

test('whatever waits and runs, no plan gives more than there is, and every job is placed or told why', () => {
  for (let seed = 0; seed < 2000; seed++) {
    const random = new Random(seed)
    const clusters = ['a', 'b'].map((name) => ({
      name,
      slots: { h100: random.integer(5), cpu: random.integer(5) },
      open: random.uniform() < 0.9,
    }))
    const type = () => (random.uniform() < 0.5 ? 'h100' : 'cpu')
    const project = () => `p${random.integer(3)}`
    const priority = () => 10 * random.integer(3)
    const quotas = [{ project: 'p0', type: 'h100', devices: random.integer(4) }]
    const free = new Map(
      clusters.flatMap(({ name, slots }) => Object.entries(slots).map(([t, n]) => [name + t, n])),
    )
    const active: ActiveJob[] = []
    for (let index = 0; index < 6; index++) {
      const demand = { type: type(), devices: 1 + random.integer(2) }
      const cluster = clusters[random.integer(2)]!.name
      if (free.get(cluster + demand.type)! < demand.devices) continue
      free.set(cluster + demand.type, free.get(cluster + demand.type)! - demand.devices)
      active.push(
        runs(`r${index}`, {
          project: project(),
          priority: priority(),
          demand,
          cluster,
          stopping: random.uniform() < 0.2,
        }),
      )
    }
    const waiting = Array.from({ length: 8 }, (_, index) =>
      waits(`w${index}`, {
        project: project(),
        priority: priority(),
        demand: { type: type(), devices: 1 + random.integer(4) },
        notBefore: random.integer(2) * 2000 * random.integer(2),
      }),
    )
    const { placements, preemptions, waiting: why } = planJobs(waiting, active, clusters, quotas, 1000)
    const byId = new Map(waiting.map((job) => [job.id, job]))
    const where = `seed ${seed}`
    for (const { job, cluster } of placements) {
      const { type, devices } = byId.get(job)!.demand
      free.set(cluster + type, free.get(cluster + type)! - devices)
    }
    expect(
      [...free.values()].every((left) => left >= 0),
      where,
    ).toBe(true)
    const told = new Set([...placements.map(({ job }) => job), ...why.keys()])
    expect([told.size, placements.length + why.size], where).toEqual([8, 8])
    for (const { job, for: by } of preemptions) {
      const victim = active.find(({ id }) => id === job)!
      expect(victim.priority, where).toBeLessThan(byId.get(by)!.priority)
      expect(victim.stopping, where).toBe(false)
    }
    expect(new Set(preemptions.map(({ job }) => job)).size, where).toBe(preemptions.length)
  }
})
