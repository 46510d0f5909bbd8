/** What answers are worth: each reward's score, and their sum by weight. */
import { UserError } from '../../base/errors.ts'
import { type GradeAll, graderOf } from '../evaluate/graders.ts'
import { type GradedAnswer, scoresByProgram } from './grader-program.ts'
import type { Reward } from './reward-fields.ts'
import { checkTemplateText, filledIn, missingPlace } from './reward-template.ts'
import { similarity } from './similarity.ts'

export interface Graded {
  /** Of every answer: the sum of weight * score. */
  totals: number[]
  /** By name of the reward: the score of every answer, before its weight. */
  scores: Map<string, number[]>
}

type Scorer = (answers: readonly GradedAnswer[]) => Promise<number[]>

export class Rewards {
  readonly #scorers: readonly { reward: Reward; scores: Scorer }[]

  /** `folder` is where programs are started. Throws UserErrors for patterns and schemas that are none. */
  constructor(rewards: readonly Reward[], folder: string) {
    this.#scorers = rewards.map((reward, index) => ({
      reward,
      scores: scorerOf(reward, `rewards.${index}`, folder),
    }))
  }

  get names(): string[] {
    return this.#scorers.map(({ reward }) => reward.name)
  }

  /** One reward after the other: programs share no cores with one another. Throws UserErrors for scores beyond use. */
  async grade(answers: readonly GradedAnswer[]): Promise<Graded> {
    const totals = answers.map(() => 0)
    const scores = new Map<string, number[]>()
    for (const { reward, scores: score } of this.#scorers) {
      const own = await score(answers)
      checkScores(reward.name, own)
      scores.set(reward.name, own)
      for (const [i, value] of own.entries()) totals[i]! += reward.weight * value
    }
    return { totals, scores }
  }
}

/** Beyond this, sums and deviations of scores lose what they compare, or are no numbers. */
const scoreMax = 1e9

function checkScores(name: string, scores: readonly number[]): void {
  const wild = scores.find((score) => !(Math.abs(score) <= scoreMax))
  if (wild === undefined) return
  throw new UserError(`The reward ${name} gave an answer the score ${wild}; ${scoreMax} is the most.`, {
    fix: 'Let it give scores of one size to all answers, such as 0 to 1.',
  })
}

/** Throws what {@link Rewards} would, where nothing is graded yet. */
export function checkGraders(rewards: readonly Reward[]): void {
  for (const [index, reward] of rewards.entries()) scorerOf(reward, `rewards.${index}`, '')
}

function scorerOf(reward: Reward, field: string, folder: string): Scorer {
  if (reward.kind === 'string_check' || reward.kind === 'text_similarity') return byTexts(reward, field)
  if (reward.kind !== 'program') return byRule(graderOf(reward, field))
  const { name, run, timeout_seconds: timeoutSeconds } = reward
  return (answers) => scoresByProgram({ name, run, timeoutSeconds, folder }, answers)
}

type TextReward = Extract<Reward, { kind: 'string_check' | 'text_similarity' }>

const checks: {
  readonly [Operation in Extract<Reward, { kind: 'string_check' }>['operation']]: (
    input: string,
    reference: string,
  ) => boolean
} = {
  eq: (input, reference) => input === reference,
  ne: (input, reference) => input !== reference,
  like: (input, reference) => input.includes(reference),
  ilike: (input, reference) => input.toLowerCase().includes(reference.toLowerCase()),
}

function byTexts(reward: TextReward, field: string): Scorer {
  for (const name of ['input', 'reference'] as const) checkTemplateText(reward[name], `${field}.${name}`)
  const scoreOf = ({ record, answer }: GradedAnswer) => {
    const [input, reference] = [reward.input, reward.reference].map((text) => filledIn(text, record, answer))
    return reward.kind === 'string_check'
      ? Number(checks[reward.operation](input!, reference!))
      : similarity(reward.metric, input!, reference!)
  }
  return (answers) => Promise.resolve(answers.map(scoreOf))
}

/** The first place in the rewards' texts that this record does not fill, and whose it is. */
export function missingInRecord(
  rewards: readonly Reward[],
  record: GradedAnswer['record'],
): { reward: string; place: string } | undefined {
  for (const reward of rewards) {
    if (reward.kind !== 'string_check' && reward.kind !== 'text_similarity') continue
    const place = missingPlace(reward.input, record) ?? missingPlace(reward.reference, record)
    if (place !== undefined) return { reward: reward.name, place }
  }
  return undefined
}

function byRule(grade: GradeAll): Scorer {
  return async (answers) =>
    grade(answers.map(({ answer, expected }) => ({ answer, expected: expected ?? '' }))).map(Number)
}
