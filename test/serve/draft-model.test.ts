import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import { type Decision, replay } from '../../src/serve/decision-log.ts'
import { DraftModel, type Proposer } from '../../src/serve/draft-model.ts'
import { Engine } from '../../src/serve/engine.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import type { Wish } from '../../src/serve/plan.ts'
import type { EngineRequest } from '../../src/serve/request.ts'
import { alone, FakeDevice } from './fake-device.ts'
import { FakeProposer, FlakyProposer } from './fake-proposers.ts'
import { greedy, request } from './requests.ts'

const shape = { vocabularySize: 24, contextMax: 512, blockTokens: 8, blockCount: 256 }
const seeded = { ...greedy, temperature: 0.7, seed: 4, topP: 0.9 }

interface Service {
  wishes: EngineRequest[]
  proposer?: (clock: ManualClock) => Proposer
  options?: Partial<SchedulerOptions>
  blockCount?: number
}

async function serve({ wishes, proposer, options, blockCount = shape.blockCount }: Service) {
  const clock = new ManualClock()
  const device = new FakeDevice({ ...shape, blockCount }, clock)
  const tokens = new Map<string, number[]>(wishes.map(({ id }) => [id, []]))
  const decisions: Decision[] = []
  const failures: string[] = []
  const engine = new Engine(
    device,
    { guessesMax: 4, runningMax: 8, stepTokensMax: 64, ...options },
    clock,
    (items) => {
      for (const item of items) tokens.get(item.id)!.push(...item.tokens)
    },
    { decisions: (decision) => decisions.push(decision), draftFailed: (message) => failures.push(message) },
    proposer?.(clock),
  )
  for (const wish of wishes) engine.submit(wish)
  while (await engine.step());
  expect(device.violation).toBeUndefined()
  for (const wish of wishes) expect(tokens.get(wish.id)).toEqual(alone(wish, shape.vocabularySize))
  const { totals, roster } = engine.scheduler
  return { device, totals, decisions, failures, preemptions: roster.preemptions }
}

const texts = new WeakMap<EngineRequest, number[]>()

/** The text of a request, told in advance. */
function right({ sequence: { request: wish, generatedTokens } }: Wish, index: number): number {
  let text = texts.get(wish)
  if (text === undefined) texts.set(wish, (text = alone(wish, shape.vocabularySize)))
  return text[generatedTokens + index]!
}

/** A draft model that is a copy of the model, with a clock of its own: it costs nothing. */
function twin(blockCount: number, drafts: FakeDevice[] = []): Proposer {
  const scratch = DraftModel.scratchBlocks(4, shape.blockTokens)
  const clock = new ManualClock()
  const device = new FakeDevice({ ...shape, blockCount: blockCount + 8 * scratch }, clock)
  drafts.push(device)
  return new DraftModel(device, blockCount, scratch, new ManualClock())
}

const requests = (sampling = greedy, count = 6) => {
  const shared = Array.from({ length: 20 }, (_, t) => 2 + (t % 7))
  return Array.from({ length: count }, (_, i) =>
    request({ prompt: [...shared, 2 + i, 9, 3 + i], maxTokens: 60, sampling }),
  )
}

test('a draft model that is a copy of the model is always right, and saves three iterations of four', async () => {
  const drafts: FakeDevice[] = []
  const plain = await serve({ wishes: requests(), options: { guessesMax: 0 } })
  const drafted = await serve({ wishes: requests(), proposer: () => twin(shape.blockCount, drafts) })
  expect(drafts[0]!.violation).toBeUndefined()
  expect(drafted.totals.guessedTokens).toBeGreaterThan(200)
  expect(drafted.totals.acceptedTokens).toBe(drafted.totals.guessedTokens)
  expect(drafted.device.iterations).toBeLessThan(plain.device.iterations / 3)
})

test('a draft model finds its own past again through shared prefixes, block borders and preemptions', async () => {
  for (const blockCount of [12, 16, 24]) {
    const drafts: FakeDevice[] = []
    const { totals, preemptions } = await serve({
      wishes: requests(),
      blockCount,
      proposer: () => twin(blockCount, drafts),
    })
    expect(drafts[0]!.violation).toBeUndefined()
    expect(preemptions).toBeGreaterThan(0)
    expect(totals.guessedTokens).toBeGreaterThan(50)
    // Who waits for another to draft the shared prefix looks its guesses up, and may be wrong.
    expect(totals.acceptedTokens).toBeGreaterThan(0.95 * totals.guessedTokens)
    // Accepted guesses are not computed again, nor are prompts that others have in common.
    expect(drafts[0]!.tokens).toBeLessThan(6 * 90 + 40 * preemptions)
  }
})

test('seeded sampling is left as it is, with some of the greedy guesses accepted', async () => {
  const { totals } = await serve({ wishes: requests(seeded), proposer: () => twin(shape.blockCount) })
  expect(totals.acceptedTokens).toBeGreaterThan(0)
  expect(totals.acceptedTokens).toBeLessThan(totals.guessedTokens)
})

test('a draft model that is always wrong is soon asked only now and then', async () => {
  const proposer = new FakeProposer((wish, index) => (right(wish, index) === 5 ? 6 : 5))
  const wishes = requests(greedy, 8).map((wish) => ({ ...wish, maxTokens: 300 }))
  await serve({ wishes, proposer: () => proposer })
  // 2,400 tokens; a trial each 48 of them and some dozens before that.
  expect(proposer.asked).toBeGreaterThan(20)
  expect(proposer.asked).toBeLessThan(160)
})

test('a draft model that is right but as slow as the model is switched off, and a quick one is not', async () => {
  const asked = async (passMs: number) => {
    const fake = new FakeProposer(right)
    fake.passMs = passMs
    await serve({ wishes: [request({ maxTokens: 300 })], proposer: () => fake })
    return fake.asked
  }
  // The fake device takes a little more than 1 ms for an iteration.
  expect(await asked(0.1)).toBeGreaterThan(50)
  expect(await asked(1.2)).toBeLessThan(30)
})

test('a flaky draft model changes no output; when it breaks the engine goes on and says so once', async () => {
  const told: string[] = []
  for (let seed = 0; seed < 10; seed++) {
    const random = new Random(seed)
    const { failures } = await serve({
      wishes: requests(seed % 2 === 0 ? greedy : seeded),
      blockCount: 24,
      proposer: () => new FlakyProposer(random, right),
    })
    expect(failures.length).toBeLessThanOrEqual(1)
    told.push(...failures)
  }
  expect(told).toContain('the draft broke')
})

test('proposals are part of the decision log, which replays without a draft model', async () => {
  const { decisions } = await serve({
    wishes: requests(seeded),
    blockCount: 24,
    proposer: () => twin(24),
  })
  const read: Decision[] = JSON.parse(JSON.stringify(decisions))
  expect(read.some((decision) => decision.type === 'plan' && decision.proposals !== undefined)).toBe(true)
  const plans = read.filter(({ type }) => type === 'plan').length
  expect(replay(read)).toEqual({ iterations: plans })
})
