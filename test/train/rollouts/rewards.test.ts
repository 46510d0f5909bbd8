import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../../src/base/clock.ts'
import { advantagesOf } from '../../../src/train/methods/policy.ts'
import { comparedBy, metricsOf } from '../../../src/train/rollouts/comparison.ts'
import { type GradedAnswer, scoresByProgram } from '../../../src/train/rollouts/grader-program.ts'
import { rewardsFields } from '../../../src/train/rollouts/reward-fields.ts'
import { Rewards } from '../../../src/train/rollouts/rewards.ts'
import { testFolder, write } from '../data/folder.ts'

const folder = testFolder()
const answerOf = (answer: string, expected: string | null = null): GradedAnswer => ({
  prompt: [{ role: 'user', content: 'how many?' }],
  answer,
  expected,
  record: { prompt: 'how many?', level: 3 },
})
const answers = [
  answerOf('one #### 7', '#### 7'),
  answerOf('#### 8', '#### 7'),
  answerOf('{"a": 1}', '#### 7'),
]

test('a reward is the sum of what graders say, each by its weight', async () => {
  write(
    folder,
    'length.mjs',
    `import { createInterface } from 'node:readline'
     for await (const line of createInterface({ input: process.stdin })) {
       const { answer, expected, record, prompt } = JSON.parse(line)
       console.error('graded', answer)
       console.log(JSON.stringify({ score: answer.length + 100 * record.level + (expected === '#### 7' && prompt[0].content === 'how many?' ? 0.5 : 0) }))
     }`,
  )
  const fields = [
    { name: 'answer', kind: 'regex', pattern: '####\\s*(-?\\d+)', weight: 2 },
    { name: 'json', kind: 'json_schema', schema: { type: 'object' }, weight: 0.25 },
    { name: 'same', kind: 'exact', weight: 8 },
    { name: 'long', kind: 'program', run: [process.execPath, 'length.mjs'], weight: -0.01 },
  ]
  const { totals, scores } = await new Rewards(rewardsFields.parse(fields), folder).grade(answers)
  expect(Object.fromEntries(scores)).toEqual({
    answer: [1, 0, 0],
    json: [0, 0, 1],
    same: [0, 0, 0],
    long: [310.5, 306.5, 308.5],
  })
  expect(totals.map((total) => total.toFixed(4))).toEqual(['-1.1050', '-3.0650', '-2.8350'])
})

test.each(['1e200', '-1e200', '1e10'])(
  'a score of %s ends the run, by the name of its reward',
  async (score) => {
    const run = [process.execPath, '-e', `console.log("0\\n1\\n${score}")`]
    const rewards = new Rewards(rewardsFields.parse([{ name: 'mine', kind: 'program', run }]), folder)
    await expect(rewards.grade(answers)).rejects.toThrow(
      `The reward mine gave an answer the score ${Number(score)}; 1000000000 is the most.`,
    )
  },
)

describe("graders of OpenAI's", () => {
  const graded = {
    ...answerOf('{"total": 12, "unit": "m"}'),
    record: { answer: { total: 12 }, text: 'The cat' },
  }
  const score = async (reward: object) => {
    const { totals } = await new Rewards(rewardsFields.parse([{ name: 'a', ...reward }]), folder).grade([
      graded,
    ])
    return totals[0]
  }

  test.each([
    ['{{ sample.output_json.total }}', '{{item.answer.total}}', 'eq', 1],
    ['{{ sample.output_json.total }}', '{{item.answer.total}}', 'ne', 0],
    ['{{ sample.output_text }}', '"unit"', 'like', 1],
    ['{{ sample.output_text }}', 'UNIT', 'like', 0],
    ['{{ sample.output_text }}', 'UNIT', 'ilike', 1],
    ['<{{ sample.output_json.nothing }}>', '<>', 'eq', 1],
  ])('string_check of %s and %s by %s is %d', async (input, reference, operation, expected) => {
    expect(await score({ kind: 'string_check', input, reference, operation })).toBe(expected)
  })

  test.each([
    // 2 * 6 / (7 + 7): one letter differs.
    ['fuzzy_match', 'The bat', 12 / 14],
    ['rouge_1', 'a cat the', 4 / 5],
    ['rouge_2', 'the cat sat', 2 / 3],
    ['rouge_l', 'cat the', 2 / 4],
    ['rouge_5', 'the cat', 0],
    // Runs of one and two words: 2 + 1 of the longer's 3 + 2 + 1.
    ['gleu', 'the cat sat', 3 / 6],
    ['gleu', 'THE CAT', 1],
  ])('text_similarity by %s with %s is %d', async (metric, input, expected) => {
    expect(await score({ kind: 'text_similarity', input, reference: '{{item.text}}', metric })).toBeCloseTo(
      expected,
      12,
    )
  })

  test('a place that nothing fills is refused before anything is graded', () => {
    const reward = { name: 'a', kind: 'string_check', input: '{{ sample.choices }}', reference: 'a' }
    expect(() => new Rewards(rewardsFields.parse([reward]), folder)).toThrow(
      /rewards\.0\.input has the place \{\{ sample\.choices \}\}, which nothing fills/,
    )
  })
})

describe('a program that does not grade ends the run, and says how', () => {
  const grade = (script: string, timeoutSeconds = 20) =>
    scoresByProgram({ name: 'mine', run: [process.execPath, '-e', script], timeoutSeconds, folder }, answers)

  test.each([
    [
      'crashes',
      'console.error("no module called sympy"); process.exit(3)',
      /mine .* ended with code 3\.\nIts last words:\nno module called sympy/,
    ],
    [
      'is ended by a signal',
      'process.kill(process.pid, "SIGTERM"); setTimeout(() => {}, 9000)',
      /was ended by SIGTERM/,
    ],
    ['prints rubbish', 'console.log("1\\n0\\nloading model")', /wrote no score in line 3: loading model/],
    ['prints what is no number', 'console.log("1\\nNaN\\n0")', /wrote no score in line 2: NaN/],
    ['prints true', 'console.log("1\\ntrue\\n0")', /wrote no score in line 2: true/],
    ['prints too few', 'console.log("1\\n0")', /wrote 2 scores for 3 answers/],
    ['prints too many', 'console.log("1\\n0\\n1\\n1")', /wrote 4 scores for 3 answers/],
    ['prints nothing', '', /wrote 0 scores for 3 answers/],
    ['prints without end', 'for (;;) process.stdout.write("1".repeat(65536))', /wrote more than 65536 bytes/],
  ])('it %s', async (_, script, message) => {
    await expect(grade(script)).rejects.toThrow(message)
  })

  test('it hangs, and so does what it started', async () => {
    const script = `require('node:child_process').spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60000)'], { stdio: 'inherit' }); setTimeout(() => {}, 60000)`
    const startedMs = systemClock.nowMs()
    await expect(grade(script, 0.5)).rejects.toThrow(/did not end within 0\.5 seconds/)
    expect(systemClock.nowMs() - startedMs).toBeLessThan(30_000)
  })

  test('it is not there', async () => {
    const program = { name: 'mine', run: [join(folder, 'nothing')], timeoutSeconds: 5, folder }
    await expect(scoresByProgram(program, answers)).rejects.toThrow(/mine could not start .*nothing/)
  })
})

test('a program that says enough without reading is taken at its word', async () => {
  const many = Array.from({ length: 2000 }, () => answerOf('x'.repeat(500)))
  const run = [process.execPath, '-e', 'console.log("0.5\\n".repeat(2000))']
  const scores = await scoresByProgram({ name: 'mine', run, timeoutSeconds: 20, folder }, many)
  expect(scores.length).toBe(2000)
})

describe('advantages', () => {
  test('are rewards above the mean of their group, in its deviations where that is asked for', () => {
    expect(advantagesOf([1, 0, 0, 1], false)).toEqual([0.5, -0.5, -0.5, 0.5])
    // Of the sample: the square root of 4 * 0.25 / 3.
    const unit = 0.5 / (Math.sqrt(1 / 3) + 1e-4)
    for (const [i, value] of advantagesOf([1, 0, 0, 1], true).entries())
      expect(value).toBeCloseTo([unit, -unit, -unit, unit][i]!, 12)
  })

  test('are exactly 0 where all rewards of a group are equal, and such groups are counted', () => {
    const third = 0.1 + 0.2
    const totals = [third, third, third, 1, 0, 0]
    const compared = comparedBy({ totals, scores: new Map([['a', totals]]) }, 3, true)
    expect(compared.advantages.slice(0, 3)).toEqual([0, 0, 0])
    const answer = (tokens: number[], ending?: number) => ({ tokens, ending, logProbabilities: [] })
    const decoded = [answer([1, 2], 9), answer([], 9), answer([1]), answer([1]), answer([1]), answer([1])]
    expect(metricsOf(compared, decoded, { group: 3 })).toMatchObject({
      groups_without_signal: 0.5,
      answers_cut: 4 / 6,
      answer_tokens: (3 + 1 + 4) / 6,
      reward_a: (3 * third + 1) / 6,
    })
  })
})
