import { describe, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { type ConstraintMaker, Constraints, compileConstraint } from '../../src/constrain/constraint.ts'
import { tablesOf } from '../../src/constrain/vocabulary-tables.ts'
import { Engine, type EngineObservers } from '../../src/serve/engine.ts'
import { EngineLoop } from '../../src/serve/engine-loop.ts'
import type { ExecutorShape } from '../../src/serve/executor.ts'
import type { FromEngine } from '../../src/serve/messages.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import type { Finish, RequestProgress } from '../../src/serve/request.ts'
import type { TraceLine } from '../../src/serve/trace.ts'
import { alone, FakeDevice } from './fake-device.ts'
import { greedy, request } from './requests.ts'

const shape: ExecutorShape = { vocabularySize: 32, contextMax: 256, blockTokens: 4, blockCount: 64 }

function setUp(options: Partial<SchedulerOptions> = {}, observers: EngineObservers = {}, given = shape) {
  const clock = new ManualClock()
  const device = new FakeDevice(given, clock)
  const tokens = new Map<string, number[]>()
  const finishes = new Map<string, Finish>()
  const heard: RequestProgress[] = []
  const engine = new Engine(
    device,
    { stepTokensMax: 16, runningMax: 8, ...options },
    clock,
    (items) => {
      for (const item of items) {
        heard.push(item)
        tokens.set(item.id, [...(tokens.get(item.id) ?? []), ...item.tokens])
        if (item.finish !== undefined) finishes.set(item.id, item.finish)
      }
    },
    observers,
  )
  const run = async () => {
    while (await engine.step());
    expect(device.violation).toBeUndefined()
  }
  return { clock, device, engine, tokens, finishes, heard, run }
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => (from + i) % 32)

test('requests of a batch get the tokens that each would get alone', async () => {
  const { engine, tokens, finishes, run } = setUp()
  const requests = Array.from({ length: 12 }, (_, i) =>
    request({
      prompt: range(i, 2 * i + 1),
      maxTokens: 3 + i,
      sampling: { ...greedy, temperature: i % 2, seed: i },
    }),
  )
  for (const r of requests) expect(engine.submit(r)).toMatchObject({ ok: true })
  await run()
  for (const r of requests) {
    expect(tokens.get(r.id)).toEqual(alone(r, shape.vocabularySize))
    expect(finishes.get(r.id)).toMatchObject({ reason: 'length', generatedTokens: r.maxTokens })
  }
})

test('the trace shows that a request leaves early and that another joins the running batch', async () => {
  const trace: TraceLine[] = []
  const { engine, run } = setUp({}, { trace: (line) => trace.push(line) })
  engine.submit(request({ id: 'short', maxTokens: 2 }))
  engine.submit(request({ id: 'long', maxTokens: 12 }))
  await engine.step()
  await engine.step()
  await engine.step()
  engine.submit(request({ id: 'late', maxTokens: 3 }))
  await run()
  const present = (id: string) => trace.filter((line) => line.sequences.some((s) => s.id === id))
  const iterations = (id: string) => present(id).map((line) => line.iteration)
  expect(iterations('short')).toEqual([0, 1])
  expect(trace[1]!.finished).toEqual(['short'])
  expect(iterations('late')).toEqual([3, 4, 5])
  expect(trace[3]!.joined).toEqual(['late'])
  expect(iterations('long')).toEqual([...Array(12).keys()])
  for (const { blocks } of trace) expect(blocks.free + blocks.cached + blocks.held).toBe(shape.blockCount)
})

test('a long prompt never keeps a running stream from its token of the iteration', async () => {
  const trace: TraceLine[] = []
  const { engine, run } = setUp({}, { trace: (line) => trace.push(line) })
  engine.submit(request({ id: 'stream', maxTokens: 40 }))
  await engine.step()
  engine.submit(request({ id: 'giant', prompt: range(0, 150), maxTokens: 2 }))
  engine.submit(request({ id: 'small', prompt: range(5, 9), maxTokens: 2 }))
  await run()
  const until = trace.findIndex((line) => line.finished.includes('stream'))
  for (const line of trace.slice(0, until)) {
    expect(line.sequences.map((s) => s.id)).toContain('stream')
    expect(line.sequences.reduce((sum, s) => sum + s.count, 0)).toBeLessThanOrEqual(16)
  }
  const finished = (id: string) => trace.findIndex((line) => line.finished.includes(id))
  expect(finished('small')).toBeLessThan(finished('giant'))
})

test('a stop token ends a request, is named in its finish, and is not among its tokens', async () => {
  const free = request({ maxTokens: 9 })
  const stop = alone(free, 32)[4]!
  const { engine, tokens, finishes, run } = setUp()
  const stopped = request({ maxTokens: 9, stopTokens: [stop] })
  const ignoring = request({ maxTokens: 9, stopTokens: [stop], ignoreEos: true })
  engine.submit(stopped)
  engine.submit(ignoring)
  await run()
  const first = alone(free, 32).indexOf(stop)
  expect(tokens.get(stopped.id)).toEqual(alone(free, 32).slice(0, first))
  expect(finishes.get(stopped.id)).toMatchObject({ reason: 'stop', stopToken: stop })
  expect(tokens.get(ignoring.id)).toEqual(alone(free, 32))
})

test('minTokens keeps stop tokens from being chosen until then', async () => {
  const everything = range(0, 32)
  const { engine, finishes, run } = setUp()
  const r = request({ maxTokens: 9, minTokens: 5, stopTokens: everything.slice(1) })
  engine.submit(r)
  await run()
  expect(finishes.get(r.id)!.generatedTokens).toBeGreaterThanOrEqual(5)
})

test('a request that goes on from earlier tokens gives the rest of the same output', async () => {
  const sampling = { ...greedy, temperature: 1, seed: 5, presencePenalty: 0.5 }
  const whole = request({ maxTokens: 10, sampling })
  const expected = alone(whole, 32)
  const { engine, tokens, finishes, run } = setUp()
  const resumed = request({ maxTokens: 10, sampling, generated: expected.slice(0, 4) })
  const complete = request({ maxTokens: 10, sampling, generated: expected })
  engine.submit(resumed)
  engine.submit(complete)
  await run()
  expect(tokens.get(resumed.id)).toEqual(expected.slice(4))
  expect(finishes.get(resumed.id)).toMatchObject({ reason: 'length', generatedTokens: 10 })
  expect(tokens.get(complete.id)).toEqual([])
  expect(finishes.get(complete.id)).toMatchObject({ reason: 'length' })
})

test.each([
  ['empty_prompt', { prompt: [] }],
  ['context_too_long', { maxTokens: 254 }],
  ['token_out_of_range', { prompt: [1, 32] }],
  ['token_out_of_range', { prompt: [1.5] }],
] as const)('an impossible request is refused on arrival: %s %o', (code, given) => {
  const { engine } = setUp()
  expect(engine.submit(request(given))).toEqual({ ok: false, code })
})

test('a request that the cache could never hold is refused on arrival', () => {
  const { engine } = setUp({}, {}, { ...shape, blockCount: 4 })
  expect(engine.submit(request({ maxTokens: 14 }))).toMatchObject({ ok: true })
  expect(engine.submit(request({ maxTokens: 15 }))).toEqual({ ok: false, code: 'cache_too_small' })
})

test('a second request with a living id is refused, and a full queue says when to come again', () => {
  const { engine } = setUp({ waitingMax: 2 })
  engine.submit(request({ id: 'same' }))
  expect(engine.submit(request({ id: 'same' }))).toEqual({ ok: false, code: 'duplicate_id' })
  engine.submit(request())
  const refused = engine.submit(request())
  expect(refused).toMatchObject({ ok: false, code: 'queue_full' })
  expect((refused as { retryAfterMs: number }).retryAfterMs).toBeGreaterThan(0)
})

test('a request that waited too long fails with a reason and a time to come again', async () => {
  const { clock, engine, finishes, run } = setUp({ runningMax: 1, queueLimitMs: 50 })
  engine.submit(request({ id: 'running', maxTokens: 60 }))
  await engine.step()
  engine.submit(request({ id: 'waiting' }))
  clock.advance(60)
  await run()
  expect(finishes.get('waiting')).toMatchObject({ reason: 'failed', code: 'queue_timeout' })
  expect(finishes.get('waiting')!.retryAfterMs).toBeGreaterThan(0)
  expect(finishes.get('running')).toMatchObject({ reason: 'length' })
})

test('a broken iteration fails the requests in it with a message, and the engine goes on', async () => {
  const { device, engine, tokens, finishes, run } = setUp({ runningMax: 1 })
  const lost = request()
  const next = request()
  engine.submit(lost)
  engine.submit(next)
  device.breaks = true
  await run()
  expect(finishes.get(lost.id)).toMatchObject({
    reason: 'failed',
    code: 'device',
    message: 'the fake device broke',
  })
  expect(tokens.get(next.id)).toEqual(alone(next, 32))
  expect(engine.gauges()).toMatchObject({ blocksHeld: 0, running: 0, waiting: 0 })
})

test.each([0, 1])('a row without numbers fails its request alone (temperature %i)', async (temperature) => {
  const { device, engine, tokens, finishes, run } = setUp()
  const good = request()
  const bad = request({ prompt: [4] })
  const execute = device.execute.bind(device)
  device.execute = async (batch) => {
    const output = await execute(batch)
    const row = batch.sequences.findIndex((work) => work.tokens[0] === 4 && work.start === 0)
    return {
      ...output,
      logits: (r) => (r === row ? new Float32Array(32).fill(Number.NaN) : output.logits(r)),
      argmax: (r) => (r === row ? -1 : output.argmax(r)),
    }
  }
  engine.submit(good)
  engine.submit({ ...bad, sampling: { ...greedy, temperature } })
  await run()
  const message = expect.stringMatching(/no finite number; the model's weights may be damaged$/)
  expect(finishes.get(bad.id)).toMatchObject({ reason: 'failed', code: 'numerics', message })
  expect(tokens.get(good.id)).toEqual(alone(good, 32))
})

test.each(['waiting', 'mid-prompt', 'decoding', 'while the device computes'])(
  'a cancelled request ends once and holds nothing afterwards: %s',
  async (state) => {
    const { device, engine, finishes, heard } = setUp({ runningMax: 1 })
    engine.submit(request({ id: 'first', prompt: range(0, 40), maxTokens: 20 }))
    engine.submit(request({ id: 'second' }))
    await engine.step()
    if (state === 'decoding') for (let i = 0; i < 4; i++) await engine.step()
    if (state === 'while the device computes') {
      device.whileComputing = () => engine.cancel('first')
      await engine.step()
      device.whileComputing = () => {}
    }
    engine.cancel(state === 'waiting' ? 'second' : 'first')
    const cancelled = state === 'waiting' ? 'second' : 'first'
    expect(finishes.get(cancelled)).toMatchObject({ reason: 'aborted' })
    if (cancelled === 'first') expect(engine.gauges().blocksHeld).toBe(0)
    while (await engine.step());
    for (const id of ['first', 'second']) {
      expect(heard.filter((item) => item.id === id && item.finish !== undefined)).toHaveLength(1)
    }
  },
)

test('the parts of the time of a request add up to its latency', async () => {
  const { clock, engine, finishes } = setUp({ runningMax: 2 }, {}, { ...shape, blockCount: 12 })
  const arrivals = new Map<string, number>()
  for (let i = 0; i < 5; i++) {
    const r = request({ prompt: range(i, i + 12), maxTokens: 20 })
    arrivals.set(r.id, clock.nowMs())
    engine.submit(r)
    clock.advance(1)
  }
  const endsAt = new Map<string, number>()
  while (await engine.step()) {
    for (const id of finishes.keys()) if (!endsAt.has(id)) endsAt.set(id, clock.nowMs())
  }
  expect(engine.gauges().preemptions).toBeGreaterThan(0)
  for (const [id, { timing }] of finishes) {
    const sum = Object.values(timing).reduce((a, b) => a + b, 0)
    expect(sum).toBeCloseTo((endsAt.get(id) ?? clock.nowMs()) - arrivals.get(id)!, 9)
  }
})

test('log-probabilities come with each token, best first, and sum to at most one', async () => {
  const { engine, heard, run } = setUp()
  const r = request({ logprobs: 3, promptLogprobs: true, prompt: range(0, 30) })
  engine.submit(r)
  await run()
  const all = heard.flatMap((item) => item.logprobs ?? [])
  expect(all).toHaveLength(4)
  for (const { token, logprob, top } of all) {
    expect(top[0]).toEqual({ token, logprob })
    expect(top).toHaveLength(3)
    expect(top[0]!.logprob).toBeGreaterThanOrEqual(top[1]!.logprob)
    expect(top.reduce((sum, t) => sum + Math.exp(t.logprob), 0)).toBeLessThan(1)
  }
  const prompt = heard.flatMap((item) => item.promptLogprobs ?? [])
  expect(prompt).toHaveLength(30)
  expect(prompt[0]).toBeNull()
  expect(prompt.slice(1).map((p) => p!.token)).toEqual(r.prompt.slice(1))
})

test('prompt log-probabilities are the same when the prefix is cached and when one token stands alone', async () => {
  const { engine, heard, run } = setUp()
  const first = request({ promptLogprobs: true, prompt: range(0, 30) })
  const second = { ...first, id: 'second' }
  const single = request({ promptLogprobs: true, prompt: [3] })
  engine.submit(first)
  await run()
  engine.submit(second)
  engine.submit(single)
  await run()
  const of = (id: string) =>
    heard.filter((item) => item.id === id).flatMap((item) => item.promptLogprobs ?? [])
  expect(of('second')).toEqual(of(first.id))
  expect(of(single.id)).toEqual([null])
})

test('the loop takes messages between iterations, sleeps when idle, and drains', async () => {
  const clock = new ManualClock()
  const sent: FromEngine[] = []
  const device = new FakeDevice(shape, clock)
  const engine = new Engine(device, {}, clock, (items) => sent.push({ type: 'progress', items }))
  const loop = new EngineLoop(engine, clock, (message) => sent.push(message))
  const over = loop.run()
  loop.receive({ type: 'submit', request: request({ id: 'kept', maxTokens: 3 }) })
  loop.receive({ type: 'submit', request: request({ id: 'cut', maxTokens: 200 }) })
  while (!sent.some((m) => m.type === 'progress')) await new Promise((resolve) => setImmediate(resolve))
  loop.receive({ type: 'cancel', id: 'cut' })
  loop.receive({ type: 'gauges', reply: 7 })
  loop.receive({ type: 'queue', reply: 8, id: 'kept' })
  loop.receive({ type: 'drain', limitMs: 1000 })
  loop.receive({ type: 'submit', request: request({ id: 'late' }) })
  await over
  const admissions = sent.filter((m) => m.type === 'admission')
  expect(admissions.map((m) => [m.id, m.admission.ok])).toEqual([
    ['kept', true],
    ['cut', true],
    ['late', false],
  ])
  const items = sent.flatMap((m) => (m.type === 'progress' ? m.items : []))
  const finishes = items.filter((item) => item.finish !== undefined).map((i) => [i.id, i.finish!.reason])
  expect(finishes).toEqual([
    ['cut', 'aborted'],
    ['kept', 'length'],
  ])
  expect(sent.find((m) => m.type === 'gauges')).toMatchObject({ reply: 7, gauges: { running: 1 } })
  expect(sent.find((m) => m.type === 'queue')).toEqual({ type: 'queue', reply: 8 })
  expect(device.iterations).toBeLessThan(10)
})

test('a drain that takes too long cuts what still runs', async () => {
  const clock = new ManualClock()
  const sent: FromEngine[] = []
  const engine = new Engine(new FakeDevice(shape, clock), {}, clock, (items) =>
    sent.push({ type: 'progress', items }),
  )
  const loop = new EngineLoop(engine, clock, (message) => sent.push(message))
  loop.receive({ type: 'submit', request: request({ id: 'endless', maxTokens: 250 }) })
  loop.receive({ type: 'drain', limitMs: 20 })
  await loop.run()
  const items = sent.flatMap((m) => (m.type === 'progress' ? m.items : []))
  expect(items.at(-1)).toMatchObject({ id: 'endless', finish: { reason: 'aborted' } })
})

describe('a request whose constraint is made elsewhere', () => {
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  // Tokens 0 to 31 write the characters from A on, and what JSON takes in place of some.
  const texts = range(0, 32).map((token) => Buffer.from('[]1,'[token] ?? String.fromCharCode(65 + token)))
  const held = request({ id: 'held', maxTokens: 9, constraint: { kind: 'json', schema: { const: [1] } } })

  function begin(options: Partial<SchedulerOptions> = {}) {
    const clock = new ManualClock()
    const sent: FromEngine[] = []
    const made = { resolve: () => {}, reject: (_: Error) => {} }
    const isMade = new Promise<void>((resolve, reject) => Object.assign(made, { resolve, reject }))
    const maker: ConstraintMaker = {
      tables: async () => {
        await isMade
        return tablesOf(texts)
      },
      compile: async (constraint) => compileConstraint(constraint),
    }
    const failures: string[] = []
    const readable = { now: true }
    const read = () => {
      if (readable.now) return texts
      throw new Error('no tokenizer.json')
    }
    const constraints = new Constraints(read, maker)
    const emit = (items: readonly RequestProgress[]) => sent.push({ type: 'progress', items })
    const engine = new Engine(new FakeDevice(shape, clock), options, clock, emit, {
      constraints,
      constraintFailed: (message) => failures.push(message),
    })
    const loop = new EngineLoop(engine, clock, (message) => sent.push(message))
    const refused = () =>
      sent.flatMap((m) => (m.type === 'admission' && !m.admission.ok ? [[m.id, m.admission.code]] : []))
    const ids = () => sent.flatMap((message) => (message.type === 'admission' ? [message.id] : []))
    const ends = () => {
      const items = sent.flatMap((message) => (message.type === 'progress' ? message.items : []))
      return items.flatMap(({ id, finish }) => (finish === undefined ? [] : [[id, finish.reason]]))
    }
    return { loop, over: loop.run(), made, ids, ends, refused, readable, failures }
  }

  test('waits while others run to their end, and no second one waits for the same', async () => {
    const { loop, over, made, ids, ends } = begin()
    loop.receive({ type: 'submit', request: held })
    loop.receive({ type: 'submit', request: request({ id: 'free', maxTokens: 40 }) })
    while (ends().length === 0) await turn()
    expect(ids()).toEqual(['free'])
    made.resolve()
    while (ends().length < 2) await turn()
    loop.receive({ type: 'submit', request: { ...held, id: 'again' } })
    expect(ids()).toEqual(['free', 'held', 'again'])
    loop.receive({ type: 'drain', limitMs: 1000 })
    await over
    expect(ends()).toEqual([
      ['free', 'length'],
      ['held', 'stop'],
      ['again', 'stop'],
    ])
  })

  test('is cancelled meanwhile, and a drain waits for its answer', async () => {
    const { loop, over, made, ids, ends } = begin()
    loop.receive({ type: 'submit', request: held })
    loop.receive({ type: 'cancel', id: 'held' })
    await turn()
    made.resolve()
    while (ids().length === 0) await turn()
    expect(ends()).toEqual([['held', 'aborted']])
    loop.receive({ type: 'drain', limitMs: 1000 })
    await over
    const late = begin()
    late.loop.receive({ type: 'submit', request: held })
    late.loop.receive({ type: 'drain', limitMs: 1000 })
    await turn()
    expect(late.ids()).toEqual([])
    late.made.resolve()
    await late.over
    expect([late.ids(), late.ends()]).toEqual([['held'], []])
  })

  test('is refused where as many wait so as may wait at all', async () => {
    const { loop, over, made, ends, refused } = begin({ waitingMax: 1 })
    loop.receive({ type: 'submit', request: held })
    loop.receive({ type: 'submit', request: { ...held, id: 'more' } })
    expect(refused()).toEqual([['more', 'queue_full']])
    made.resolve()
    while (ends().length === 0) await turn()
    expect(ends()).toEqual([['held', 'stop']])
    loop.receive({ type: 'drain', limitMs: 1000 })
    await over
  })

  test('is refused alone where no tokenizer can be read, and the next one is held when it can again', async () => {
    const { loop, over, made, ends, refused, readable, failures } = begin()
    made.reject(new Error('the thread found no tokenizer.json'))
    readable.now = false
    loop.receive({ type: 'submit', request: held })
    loop.receive({ type: 'submit', request: request({ id: 'free', maxTokens: 40 }) })
    while (ends().length === 0) await turn()
    expect([refused(), ends()]).toEqual([[['held', 'constraint_unavailable']], [['free', 'length']]])
    expect(failures).toEqual(['no tokenizer.json'])
    readable.now = true
    loop.receive({ type: 'submit', request: { ...held, id: 'later' } })
    while (ends().length === 1) await turn()
    expect(ends()).toContainEqual(['later', 'stop'])
    loop.receive({ type: 'drain', limitMs: 1000 })
    await over
  })

  test('is held all the same where the thread dies', async () => {
    const { loop, over, made, ends } = begin()
    made.reject(new Error('the thread ended'))
    loop.receive({ type: 'submit', request: held })
    while (ends().length === 0) await turn()
    expect(ends()).toEqual([['held', 'stop']])
    loop.receive({ type: 'drain', limitMs: 1000 })
    await over
  })

  test('keeps nobody waiting while it is found out which token may follow', async () => {
    // One node of the vocabulary a slice: each of its tokens takes many iterations.
    const constraints = new Constraints(() => texts, undefined, 1)
    const schema = { const: [1, 11, [1]] }
    const wish = request({ id: 'held', maxTokens: 20, constraint: { kind: 'json', schema } })
    const quick = setUp({}, { constraints: new Constraints(() => texts) })
    quick.engine.submit(wish)
    await quick.run()
    const { engine, tokens, finishes, device } = setUp({}, { constraints })
    engine.submit(wish)
    engine.submit(request({ id: 'free', maxTokens: 40 }))
    let iterations = 0
    for (; !finishes.has('free'); iterations++) await engine.step()
    // One for each of its tokens, and none in which it waited.
    expect(iterations).toBe(40)
    expect(tokens.get('held')!.length).toBeLessThan(9)
    while (await engine.step());
    expect(device.violation).toBeUndefined()
    expect(finishes.get('held')).toMatchObject({ reason: 'stop' })
    expect(tokens.get('held')).toEqual(quick.tokens.get('held'))
    expect(finishes.get('held')!.timing.waitingForBudgetMs).toBeGreaterThan(0)
  })

  test('can be cancelled while its next token is looked for, and another of its name is not held for it', async () => {
    const constraints = new Constraints(() => texts, undefined, 1)
    const { engine, finishes, run } = setUp({}, { constraints })
    engine.submit(held)
    for (let i = 0; i < 3; i++) await engine.step()
    engine.cancel('held')
    engine.submit(request({ id: 'held', maxTokens: 9 }))
    await run()
    expect(finishes.get('held')).toMatchObject({ reason: 'length', generatedTokens: 9 })
  })
})
