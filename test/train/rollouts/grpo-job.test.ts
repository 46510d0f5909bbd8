import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hashOfFile } from '../../../src/base/files.ts'
import { runnerOf } from '../../../src/base/processes.ts'
import { Random } from '../../../src/base/random.ts'
import { decoder, decodeWithEngine } from '../../../src/cli/decoder.ts'
import type { TrainingJob } from '../../../src/train/job.ts'
import { checkJob } from '../../../src/train/preflight/job-check.ts'
import { replayStep } from '../../../src/train/replay-step.ts'
import { readRollouts, rolloutsName } from '../../../src/train/rollouts/rollout-file.ts'
import type { JobCallbacks } from '../../../src/train/run-callbacks.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import type { StepReport } from '../../../src/train/trainer.ts'
import { channels } from '../channels.ts'
import { write } from '../data/folder.ts'
import { temporaryFolder } from '../temporary-folder.ts'
import { tinyJob } from '../tiny-job.ts'

const root = temporaryFolder('grpo', afterAll)
let base: string
let doubled: string

/** The model knows letters in any order; it is to say the second of two letters, twice. */
const letters = [...'abcdefgh']
const pairs = letters.flatMap((first) => letters.map((second) => first + second))
const records = pairs.map((pair) => ({ prompt: pair, completion: pair[1]!.repeat(2) }))
const isHeld = (_: unknown, number: number) => number % 5 === 0
const rewards = [
  { name: 'first', kind: 'regex', pattern: '^(.)' },
  { name: 'second', kind: 'regex', pattern: '^.(.)', weight: 0.25 },
]
const linesOf = (some: readonly object[]) => some.map((one) => JSON.stringify(one)).join('\n')

async function learned(name: string, times: number, steps: number): Promise<string> {
  const random = new Random(9)
  const text = Array.from({ length: 4000 }, () => letters[random.integer(8)]!.repeat(times)).join('')
  const data = { text: write(root, `${name}.txt`, text) }
  const model = { architecture: 'llama', layers: 2, heads: 2, width: 32 }
  return (await runTrainingJob(tinyJob(join(root, name), { model, data, steps }))).folder
}

beforeAll(async () => {
  write(root, 'prompts.jsonl', linesOf(records.filter((one, number) => !isHeld(one, number))))
  write(root, 'held.jsonl', linesOf(records.filter(isHeld)))
  base = await learned('base', 1, 30)
  // A model that hardly learned has embeddings too small for an adapter to be sure of anything.
  doubled = await learned('doubled', 2, 100)
})

const changesOf = (grpo: object = {}, changes: Record<string, unknown> = {}) => ({
  model: { from: base },
  tokenizer: undefined,
  method: { grpo: { group: 6, tokens_max: 2, ...grpo } },
  rewards,
  // The tokenizer of characters has no ending token.
  data: { train: join(root, 'prompts.jsonl'), validation: 0, train_end_of_turn: false },
  batch: 12,
  context: 8,
  steps: 4,
  optimizer: { learning_rate: 0.01, weight_decay: 0 },
  schedule: { kind: 'constant' },
  evaluate: { every: 100 },
  checkpoint: { every: 100, keep: 2 },
  ...changes,
})

const job = (name: string, grpo: object = {}, changes: Record<string, unknown> = {}) =>
  tinyJob(join(root, name), changesOf(grpo, changes))

async function run(given: TrainingJob, callbacks: JobCallbacks = {}, signal?: AbortSignal) {
  const reports: StepReport[] = []
  const onStep = (report: StepReport) => void reports.push(report)
  const result = await runTrainingJob(given, { decode: decodeWithEngine, onStep, ...callbacks }, signal)
  return { reports, ...result }
}

const weightsOf = (folder: string, name = 'model.safetensors') => hashOfFile(join(folder, name))
const meanOf = (reports: readonly StepReport[], metric: string) =>
  reports.reduce((sum, { metrics }) => sum + metrics[metric]!, 0) / reports.length

test('all weights learn what is rewarded, and answer prompts that were never asked', async () => {
  const held = join(root, 'held.jsonl')
  const tasks = [{ name: 'held', kind: 'regex', pattern: '^(.)', data: held, tokens_max: 2 }]
  const data = { train: join(root, 'prompts.jsonl'), validation: held, train_end_of_turn: false }
  const given = { steps: 100, batch: 96, data, evaluate: { every: 100, tasks } }
  const optimizer = { learning_rate: 0.005, weight_decay: 0 }
  const evaluations: Parameters<NonNullable<JobCallbacks['onEvaluation']>>[0][] = []
  const { reports, outcome, best } = await run(
    job('learns', { group: 8, rollouts_kept: 60 }, { ...given, optimizer }),
    { onEvaluation: (one) => void evaluations.push(one) },
  )
  expect([outcome, best?.stepsDone]).toEqual(['finished', 100])
  // A guess is right once in 8 times, and five steps have 480 answers.
  expect(meanOf(reports.slice(0, 5), 'reward_first')).toBeLessThan(0.25)
  expect(meanOf(reports.slice(-5), 'reward_first')).toBeGreaterThan(0.75)
  // The reward's grader and the task's are one, and so are the answers.
  const [before, after] = evaluations
  expect(before!.rewards.reward_first).toBe(before!.tasks.held)
  expect(before!.tasks.held).toBeLessThan(0.4)
  expect(after!.tasks.held).toBeGreaterThan(0.6)
  const { reward, reward_first, reward_second } = after!.rewards
  expect(reward).toBeCloseTo(reward_first! + 0.25 * reward_second!, 12)
  const kept = readRollouts(join(root, 'learns', 'out', rolloutsName))
  expect(kept.length).toBeGreaterThanOrEqual(60)
  expect(kept.length).toBeLessThanOrEqual(120)
  expect(kept.at(-1)).toMatchObject({ step: 99, cut: true, tokens: 2 })
  for (const { scores, reward, answer, expected } of kept) {
    expect(reward).toBe(scores.first! + 0.25 * scores.second!)
    expect([scores.first, scores.second]).toEqual(
      [...answer].map((letter) => Number(letter === expected![0])),
    )
  }
})

test('an adapter learns what is rewarded beside its base', async () => {
  const always = [{ name: 'first', kind: 'regex', pattern: '^c' }]
  const data = {
    train: join(root, 'prompts.jsonl'),
    validation: join(root, 'held.jsonl'),
    train_end_of_turn: false,
  }
  const method = { grpo: { group: 8, tokens_max: 2, beta: 0.001 }, lora: { rank: 8, alpha: 32 } }
  const given = { model: { from: doubled }, method, rewards: always, data, steps: 40, batch: 48 }
  const held: number[] = []
  const { reports, folder } = await run(job('adapter', {}, { ...given, evaluate: { every: 40 } }), {
    onEvaluation: ({ rewards }) => void held.push(rewards.reward!),
  })
  expect(reports[0]!.metrics.reward).toBeLessThan(0.3)
  expect(meanOf(reports.slice(-5), 'reward')).toBeGreaterThan(0.45)
  expect(held[0]).toBeLessThan(0.4)
  expect(held[1]).toBeGreaterThan(0.8)
  // The reference is the base without it.
  expect(reports[0]!.metrics.kl).toBeLessThan(1e-9)
  expect(reports.at(-1)!.metrics.kl).toBeGreaterThan(0.1)
  expect(existsSync(join(folder, 'adapter_model.safetensors'))).toBe(true)
})

test('a first step is on the policy that sampled: nothing is clipped, and the server reports what training computes', async () => {
  const { reports } = await run(job('on policy', { beta: 0.1, updates: 2 }))
  const [first, second] = [reports[0]!.metrics, reports[1]!.metrics]
  expect(first.clip_share).toBe(0)
  // The reference is the same model.
  expect(first.kl).toBeLessThan(1e-9)
  expect(first.entropy).toBeGreaterThan(1)
  expect(first.served_gap).toBeGreaterThan(0)
  // Keys and values of the server are half floats.
  expect(first.served_gap).toBeLessThan(0.01)
  // The second step learns from the same answers, which are not on its policy.
  expect(second.reward).toBe(first.reward)
  expect(second.kl).toBeGreaterThan(1e-6)
  expect(second.served_gap).toBeUndefined()
  expect(reports[2]!.metrics.reward).not.toBe(first.reward)
})

const harder = { beta: 0.05, updates: 2, clip_high: 0.28, temperature: 0.9, loss: 'answers' }
const long = { steps: 12, accumulate: 2, checkpoint: { every: 4 } }

describe('the same bits', () => {
  let whole: string
  beforeAll(async () => {
    whole = weightsOf((await run(job('whole', harder, long))).folder)
  })

  test('whatever number of answers the engine writes at once', async () => {
    for (const together of [1, 5]) {
      const { folder } = await run(job(`together ${together}`, harder, long), { decode: decoder(together) })
      expect(weightsOf(folder)).toBe(whole)
    }
  })

  test('where a run is stopped between two steps that share their answers: it does the second first', async () => {
    const stop = new AbortController()
    const onStep = ({ step }: { step: number }) => void (step === 6 && stop.abort())
    const stopped = await run(job('stopped', harder, long), { onStep }, stop.signal)
    expect(stopped).toMatchObject({ outcome: 'stopped', stepsDone: 8 })
    const { folder, reports } = await run(job('stopped', harder, long))
    expect(reports.map(({ step }) => step)).toEqual([8, 9, 10, 11])
    expect(weightsOf(folder)).toBe(whole)
  })

  test('where a run is killed, its answers and all: what was written of later ones makes way', async () => {
    const child = join(import.meta.dirname, '..', 'run-child.ts')
    const folder = join(root, 'killed')
    const changes = JSON.stringify(changesOf(harder, long))
    const command = [...runnerOf(child), child, folder, 'step', '7', changes]
    const [, signal] = (await once(
      spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'inherit'] }),
      'exit',
    )) as [unknown, string]
    expect(signal).toBe('SIGKILL')
    const { folder: saved, reports } = await run(job('killed', harder, long))
    expect([0, 4]).toContain(reports[0]!.step)
    expect(weightsOf(saved)).toBe(whole)
    const texts = (name: string) => readFileSync(join(root, name, 'out', rolloutsName), 'utf8')
    expect(texts('killed')).toBe(texts('whole').replaceAll(join(root, 'whole'), join(root, 'killed')))
  })

  test('in two processes, which take turns at the prompts', async () => {
    const given = { ...long, data_parallel: true }
    const one = await run(job('one process', harder, given))
    const two = await Promise.all(
      channels(2).map((channel) =>
        runTrainingJob(job('two processes', harder, given), { decode: decodeWithEngine }, undefined, channel),
      ),
    )
    expect(weightsOf(two[0]!.folder)).toBe(weightsOf(one.folder))
    expect(weightsOf(two[0]!.folder, 'optimizer.safetensors')).toBe(
      weightsOf(one.folder, 'optimizer.safetensors'),
    )
  })

  test('where a step is computed again', async () => {
    const { recorded, recomputed, firstDifference, samples } = await replayStep(
      join(root, 'whole', 'out'),
      9,
      {
        decode: decodeWithEngine,
      },
    )
    expect(firstDifference).toBeUndefined()
    expect(recomputed.hash).toBe(recorded.hash)
    expect(samples.rows[0]!.supervisedTokens).toBe(2)
    expect(samples.places[0]).toMatch(/prompts\.jsonl:\d+$/)
  })
})

test('a step in which all answers are worth the same changes nothing, and says so once', async () => {
  const notes: string[] = []
  const never = [{ name: 'never', kind: 'regex', pattern: 'never' }]
  const { folder, reports } = await run(job('silent', {}, { rewards: never }), {
    onNote: (text) => notes.push(text),
  })
  expect(reports.map(({ gradientNorm, metrics }) => [gradientNorm, metrics.groups_without_signal])).toEqual(
    reports.map(() => [0, 1]),
  )
  expect(notes.filter((text) => /nothing is learned from them/.test(text))).toHaveLength(1)
  expect(weightsOf(folder)).toBe(weightsOf(base))
})

test('what is held out is a share of the prompts, equal ones together, and is never asked', async () => {
  const twice = [...records, ...records]
  write(root, 'twice.jsonl', linesOf(twice))
  const data = { train: join(root, 'twice.jsonl'), validation: 0.25, train_end_of_turn: false }
  const given = job('shared out', { rollouts_kept: 1000 }, { data, steps: 48 })
  const { data: check } = await checkJob(given, () => undefined)
  expect([check.training.samples, check.validation.samples]).toEqual([96, 32])
  expect(check.leaks).toMatchObject({ samples: 0, prompts: 0 })
  await run(given)
  const asked = new Set(readRollouts(join(given.out, rolloutsName)).map(({ prompt }) => prompt))
  // 48 steps ask 96 prompts: all that are left, once.
  expect(asked.size).toBe(48)
})

test('a program that breaks ends the run at its first answers, and no step is done', async () => {
  const broken = [{ name: 'mine', kind: 'program', run: [process.execPath, '-e', 'console.log("fine")'] }]
  const { out } = job('broken', {}, { rewards: broken })
  await expect(run(job('broken', {}, { rewards: broken }))).rejects.toThrow(
    /mine .* wrote 1 scores for 12 answers/,
  )
  expect(existsSync(join(out, 'checkpoints'))).toBe(false)
})

test('a check says how often prompts are asked, shows them, and counts a reference', async () => {
  const { data, needs } = await checkJob(job('checked', {}, { steps: 26 }), () => undefined)
  expect(data.refusals).toEqual([])
  expect(data).toMatchObject({
    kind: 'prompts',
    passes: 52 / 51,
    training: { samples: 51, trainedTokens: 0 },
  })
  expect(data.previews[0]!.stretches).toEqual([{ text: 'ab', weight: 0 }])
  expect(data.warnings.join(' ')).toMatch(
    /Nothing is held out.*writing the answers, and grading them, comes on top|comes on top.*Nothing is held out/,
  )
  const { needs: held } = await checkJob(job('checked', { beta: 0.1 }, { steps: 26 }), () => undefined)
  expect(held.memory.weightBytes).toBe(2 * needs.memory.weightBytes)
})

describe('refused, and said why', () => {
  test.each([
    [{}, { rewards: undefined }, /The field rewards is missing/],
    [{}, { method: { lora: {} } }, /The field rewards grades answers: it takes method\.grpo/],
    [{ group: 5 }, {}, /method\.grpo\.group must divide the 12 answers of a step .* 5 does not/],
    [{ tokens_max: 8 }, {}, /tokens_max leaves no room for a prompt in a context of 8/],
    [{ updates: 3 }, {}, /The field steps must be a multiple of method\.grpo\.updates \(3\); 4 is not/],
    [{}, { data: { text: 'text.txt' } }, /The field data has texts/],
    [{}, { data: { train: { path: 'x.jsonl', weight: 2 } } }, /data\.train has weights/],
    [{}, { method: { grpo: {}, dpo: {} } }, /The field method has dpo and grpo/],
    [
      {},
      {
        rewards: [
          { name: 'a', kind: 'exact' },
          { name: 'a', kind: 'exact' },
        ],
      },
      /rewards is not right: two of them have one name/,
    ],
    [
      {},
      { rewards: [{ name: 'a', kind: 'program', run: 'python3 grade.py' }] },
      /rewards\.0\.run is not right/,
    ],
    [
      {},
      { rewards: [{ name: 'a', kind: 'regex', pattern: '(' }] },
      /rewards\.0\.pattern is no regular expression/,
    ],
    [
      {},
      { rewards: [{ name: 'a', kind: 'string_check', input: '{{sample.foo}}', reference: 'a' }] },
      /rewards\.0\.input has the place \{\{ sample\.foo \}\}/,
    ],
  ])('%j %j', (grpo, changes, message) => {
    expect(() => job('refused', grpo, changes)).toThrow(message)
  })

  test('nobody who decodes', async () => {
    await expect(runTrainingJob(job('refused'))).rejects.toThrow(/Nobody here can decode/)
  })

  test.each([
    [
      'a prompt without the answer that a reward compares with',
      { prompt: 'a' },
      /bad\.jsonl:2: it has no answer that the reward same could compare with/,
    ],
    [
      'a prompt that leaves no room for an answer',
      { prompt: 'abcdefgh', completion: 'a' },
      /bad\.jsonl:2: its prompt has 8 tokens, and with an answer of 2 the context of 8 is too short/,
    ],
    ['a pair of preferences', { chosen: 'a', rejected: 'b' }, /bad\.jsonl:2: .*preferences/],
  ])('%s', async (_, record, message) => {
    write(root, 'bad.jsonl', linesOf([records[0]!, record]))
    const data = { train: join(root, 'bad.jsonl'), train_end_of_turn: false }
    const given = job('refused', {}, { data, rewards: [{ name: 'same', kind: 'exact' }] })
    await expect(run(given)).rejects.toThrow(message)
  })

  test('a record without what a reward compares', async () => {
    const compared = {
      name: 'like',
      kind: 'string_check',
      input: '{{sample.output_text}}',
      reference: '{{item.wanted}}',
    }
    await expect(run(job('refused', {}, { rewards: [compared] }))).rejects.toThrow(
      /prompts\.jsonl:1: it has no item\.wanted, which the reward like compares/,
    )
  })

  test('prompts alone are taken where no reward compares', async () => {
    write(root, 'bare.jsonl', linesOf([{ prompt: 'ab' }, { prompt: 'cd' }]))
    const data = { train: join(root, 'bare.jsonl'), validation: 0, train_end_of_turn: false }
    const vowels = [{ name: 'vowel', kind: 'regex', pattern: '[aeiou]' }]
    expect((await run(job('bare', {}, { data, rewards: vowels }))).outcome).toBe('finished')
  })
})
