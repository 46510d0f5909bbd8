/**
 * How long the scheduler takes for a plan while many run and many more wait, and how far the service that two
 * backlogged keys got drifts apart. No model: what a plan decides is taken for computed.
 */
import { assert } from '../src/base/assert.ts'
import { Random } from '../src/base/random.ts'
import { defaultSchedulerOptions, type SchedulerOptions } from '../src/serve/options.ts'
import type { IterationPlan } from '../src/serve/plan.ts'
import type { EngineRequest } from '../src/serve/request.ts'
import { Scheduler } from '../src/serve/scheduler.ts'
import { type Bench, runFromCommandLine, type Values } from './harness/bench.ts'

const parameters = {
  running: { small: 8, large: 256 },
  waiting: { small: 50, large: 10_000 },
  tenants: { small: 3, large: 100 },
  plans: { small: 20, large: 1000 },
} as const

const shape = { vocabularySize: 32_000, contextMax: 8192, blockTokens: 16, blockCount: 65_536 }

export const plan: Bench<typeof parameters> = {
  name: 'plan',
  parameters,
  run: async (wanted, { say }) => {
    say('plans without goals')
    const plain = planMs(wanted, {})
    say('plans with goals')
    const goals = planMs(wanted, { goalTpotMs: 1000, goalTtftMs: 1000 })
    say('plans with guesses for every stream')
    const guesses = planMs(wanted, { goalTpotMs: 1000, goalTtftMs: 1000, guessesMax: 4 })
    say('service of two keys')
    const { worst, bound } = fairness(wanted.plans)
    const figures = {
      planMedianMs: quantile(plain, 0.5),
      planP99Ms: quantile(plain, 0.99),
      planWithGoalsMedianMs: quantile(goals, 0.5),
      planWithGoalsP99Ms: quantile(goals, 0.99),
      planWithGuessesMedianMs: quantile(guesses, 0.5),
      planWithGuessesP99Ms: quantile(guesses, 0.99),
      serviceApartMost: worst,
      serviceApartBound: bound,
    }
    return { figures, comparisons: [] }
  },
}

let requests = 0

function request(given: Pick<EngineRequest, 'prompt' | 'maxTokens' | 'tenant'> & { priority?: number }) {
  return {
    id: `request-${requests++}`,
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      seed: 0,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repetitionPenalty: 1,
    },
    minTokens: 0,
    ignoreEos: true,
    stopTokens: [],
    priority: 0,
    ...given,
  }
}

function commit(scheduler: Scheduler, made: IterationPlan, nowMs: number): void {
  const results = made.sequences.map(({ sampledRows }) => ({ tokens: sampledRows > 0 ? [7] : [] }))
  scheduler.commit(made, results, nowMs)
}

/** Milliseconds of each plan once the batch is full. */
function planMs(
  { running, waiting, tenants, plans }: Values<typeof parameters>,
  options: Partial<SchedulerOptions>,
) {
  const scheduler = new Scheduler(shape, {
    runningMax: running,
    stepTokensMax: 4 * running,
    waitingMax: 2 * (running + waiting),
    ...options,
  })
  for (let i = 0; i < running + waiting; i++) {
    const prompt = Array.from({ length: 64 }, (_, t) => (i * 31 + t) % shape.vocabularySize)
    scheduler.submit(request({ prompt, maxTokens: 4000, tenant: `${i % tenants}`, priority: i % 3 }), 0)
  }
  const times: number[] = []
  for (let i = 0; i < plans + 100; i++) {
    const started = performance.now()
    const made = scheduler.plan(10 * i)
    const tookMs = performance.now() - started
    // At first the plans are full of prompts, and the compiler warms up.
    if (i >= 100) times.push(tookMs)
    commit(scheduler, made, 10 * i + 10)
  }
  assert(scheduler.roster.running.size === running, 'the batch is full')
  return times
}

/**
 * The largest difference in priced tokens between a key with long requests and one with short ones while both
 * wait, and the bound: 2 max(prompt price x longest prompt, output price x tokens of the batch) (Sheng et al.
 * 2024, theorem 4.4).
 */
function fairness(plans: number): { worst: number; bound: number } {
  const { prices } = defaultSchedulerOptions
  const [promptMax, outputMax, runningMax] = [60, 30, 6]
  const random = new Random(1)
  const scheduler = new Scheduler(shape, {
    runningMax,
    stepTokensMax: 64,
    waitingMax: 4 * plans,
    prefixCache: false,
  })
  const kinds = { long: [promptMax, outputMax], short: [8, 6] } as const
  const served = { long: 0, short: 0 }
  const submit = (tenant: 'long' | 'short') => {
    const [prompt, output] = kinds[tenant]
    const length = 1 + random.integer(prompt)
    const tokens = Array.from({ length }, (_, t) => t)
    scheduler.submit(request({ prompt: tokens, maxTokens: 1 + random.integer(output), tenant }), 0)
  }
  for (let i = 0; i < 4; i++) for (const tenant of ['long', 'short'] as const) submit(tenant)
  let worst = 0
  for (let i = 0; i < plans; i++) {
    const made = scheduler.plan(i)
    for (const { sequence, start, count, sampledRows } of made.sequences) {
      const promptTokens = Math.max(0, Math.min(count, sequence.promptTokens - start))
      served[sequence.tenant.name as keyof typeof served] +=
        prices.prompt * promptTokens + prices.output * sampledRows
    }
    // Whoever started makes room in the queue, so both keys always wait.
    for (const { tenant } of made.joined) submit(tenant.name as keyof typeof served)
    commit(scheduler, made, i + 1)
    worst = Math.max(worst, Math.abs(served.long - served.short))
  }
  return { worst, bound: 2 * Math.max(prices.prompt * promptMax, prices.output * runningMax * outputMax) }
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return Number(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!.toFixed(4))
}

await runFromCommandLine(import.meta.url, plan)
