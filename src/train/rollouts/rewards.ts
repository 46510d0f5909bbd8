/** What answers are worth: each reward's score, and their sum by weight. */
import { accepts, exact, type Grader, matches } from '../evaluate/graders.ts'
import { type GradedAnswer, scoresByProgram } from './grader-program.ts'
import type { Reward } from './reward-fields.ts'

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

  /** One reward after the other: programs share no cores with one another. */
  async grade(answers: readonly GradedAnswer[]): Promise<Graded> {
    const totals = answers.map(() => 0)
    const scores = new Map<string, number[]>()
    for (const { reward, scores: score } of this.#scorers) {
      const own = await score(answers)
      scores.set(reward.name, own)
      for (const [i, value] of own.entries()) totals[i]! += reward.weight * value
    }
    return { totals, scores }
  }
}

function scorerOf(reward: Reward, field: string, folder: string): Scorer {
  if (reward.kind !== 'program') return byRule(ruleOf(reward, field))
  const { name, run, timeout_seconds: timeoutSeconds } = reward
  return (answers) => scoresByProgram({ name, run, timeoutSeconds, folder }, answers)
}

function ruleOf(reward: Exclude<Reward, { kind: 'program' }>, field: string): Grader {
  if (reward.kind === 'regex') return matches(reward.pattern, `${field}.pattern`)
  return reward.kind === 'json_schema' ? accepts(reward.schema, `${field}.schema`) : exact
}

function byRule(grade: Grader): Scorer {
  return (answers) =>
    Promise.resolve(answers.map(({ answer, expected }) => Number(grade(answer, expected ?? ''))))
}
