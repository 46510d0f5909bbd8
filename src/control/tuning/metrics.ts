/** What the job of a fine-tuning measured, in the words of OpenAI's API. */
import { createReadStream, existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { writeFileAtomic } from '../../base/files.ts'
import { ownValue } from '../../base/own.ts'
import type { JobTables } from '../jobs/rows.ts'
import type { Store } from '../store/store.ts'

/** The trainer's names and OpenAI's. */
const names: Readonly<Record<string, string>> = {
  loss: 'train_loss',
  held_out_loss: 'valid_loss',
  reward: 'train_mean_reward',
  held_out_reward: 'valid_mean_reward',
  learning_rate: 'learning_rate',
  gradient_norm: 'gradient_norm',
  tokens_per_second: 'tokens_per_second',
}

export interface StepMetrics {
  readonly step: number
  readonly values: Readonly<Record<string, number>>
}

export interface StepPage {
  readonly steps: readonly StepMetrics[]
  readonly hasMore: boolean
}

/**
 * Of the steps behind `after`, ascending; at most `limit` of them. The newest step is not there before the one behind
 * it, unless the job is over: what was evaluated after it is reported after its own metrics.
 */
export async function metricsAfter(
  store: Store,
  job: string,
  { after, limit, isOver }: { after: number; limit: number; isOver: boolean },
): Promise<StepPage> {
  const pointsBehind = (step: number) =>
    store
      .db<JobTables>()
      .selectFrom('job_metrics')
      .where('job_id', '=', job)
      .where('step', '>', step)
      .where('value', 'is not', null)
      .orderBy('step')
  const found = await pointsBehind(after)
    .select('step')
    .distinct()
    .limit(limit + 1)
    .execute()
  const hasMore = found.length > limit
  const last = (isOver && !hasMore ? found : found.slice(0, -1)).at(-1)
  if (last === undefined) return { steps: [], hasMore: false }
  const points = await pointsBehind(after)
    .select(['step', 'name', 'value'])
    .where('step', '<=', last.step)
    .execute()
  const steps = new Map<number, Record<string, number>>()
  for (const { step, name, value } of points) {
    const values = steps.get(step) ?? {}
    values[ownValue(names, name) ?? name] = value!
    steps.set(step, values)
  }
  return { steps: [...steps].map(([step, values]) => ({ step, values })), hasMore }
}

/** Of the step of a checkpoint, and of no other: what was not measured there is left out. */
export async function metricsAt(store: Store, job: string, step: number): Promise<Record<string, number>> {
  const points = await store
    .db<JobTables>()
    .selectFrom('job_metrics')
    .select(['name', 'value'])
    .where('job_id', '=', job)
    .where('name', 'in', ['loss', 'held_out_loss', 'reward', 'held_out_reward'])
    .where('step', '=', step)
    .execute()
  const at = (wanted: string) => points.find(({ name }) => name === wanted)?.value ?? undefined
  const [train, held] = [at('loss'), at('held_out_loss')]
  const [reward, heldReward] = [at('reward'), at('held_out_reward')]
  return {
    ...(reward !== undefined && { train_mean_reward: reward }),
    ...(heldReward !== undefined && { valid_mean_reward: heldReward }),
    ...(train !== undefined && { train_loss: train }),
    ...(held !== undefined && { valid_loss: held, full_valid_loss: held }),
  }
}

const columns = [
  'train_loss',
  'valid_loss',
  'learning_rate',
  'gradient_norm',
  'tokens_per_second',
  'train_mean_reward',
  'valid_mean_reward',
] as const
const lineCharactersMax = 100_000

/**
 * The result file of OpenAI's API: a line for every step. From the trainer's metrics.jsonl, in which the last line of a
 * step counts. False when there is none.
 */
export async function writeResults(metricsFile: string, path: string): Promise<boolean> {
  if (!existsSync(metricsFile)) return false
  const steps = new Map<number, Record<string, number>>()
  for await (const line of createInterface({ input: createReadStream(metricsFile), crlfDelay: Infinity })) {
    const parsed = eventIn(line)
    if (parsed === undefined) continue
    const values = steps.get(parsed.step) ?? {}
    for (const [name, value] of Object.entries(parsed.values)) values[ownValue(names, name) ?? name] = value
    steps.set(parsed.step, values)
  }
  const lines = [...steps]
    .sort(([a], [b]) => a - b)
    .map(([step, values]) => [step, ...columns.map((name) => values[name] ?? '')].join(','))
  writeFileAtomic(path, `${[['step', ...columns].join(','), ...lines].join('\n')}\n`)
  return true
}

/** A crash may have left half a line. */
function eventIn(line: string): { step: number; values: Record<string, number> } | undefined {
  if (line.length > lineCharactersMax) return undefined
  try {
    const event = JSON.parse(line) as Record<string, unknown>
    if (event.kind !== 'metrics' || typeof event.step !== 'number') return undefined
    const numbers = Object.entries(event).filter(
      (pair): pair is [string, number] => pair[0] in names && typeof pair[1] === 'number',
    )
    return { step: event.step, values: Object.fromEntries(numbers) }
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}
