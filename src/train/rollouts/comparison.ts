/** Answers beside others to the same prompt: what each is worth above them, and what a step's answers are like. */
import type { Decoded } from '../evaluate/decode.ts'
import { advantagesOf, deviationOf } from '../methods/policy.ts'
import type { PolicyMethod } from '../methods/policy-fields.ts'
import type { Graded } from './rewards.ts'

export interface Comparison extends Graded {
  /** Of every answer. */
  advantages: number[]
  /** Of every group: the deviation of its rewards. */
  deviations: number[]
}

/** Every `group` answers are of one prompt. */
export function comparedBy({ totals, scores }: Graded, group: number, scaled: boolean): Comparison {
  const groups = Array.from({ length: totals.length / group }, (_, i) =>
    totals.slice(i * group, (i + 1) * group),
  )
  return {
    totals,
    scores,
    advantages: groups.flatMap((rewards) => advantagesOf(rewards, scaled)),
    deviations: groups.map(deviationOf),
  }
}

const meanOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

/** The mean reward, and that of each reward's scores under `reward_NAME`. */
export function meansOf(totals: Graded['totals'], scores: Graded['scores']): Record<string, number> {
  return {
    reward: meanOf(totals),
    ...Object.fromEntries([...scores].map(([name, own]) => [`reward_${name}`, meanOf(own)])),
  }
}

export function metricsOf(
  { totals, scores, advantages, deviations }: Comparison,
  answers: readonly Decoded[],
  { group }: Pick<PolicyMethod, 'group'>,
): Record<string, number> {
  const silent = deviations.map((_, i) =>
    Number(advantages.slice(i * group, (i + 1) * group).every((advantage) => advantage === 0)),
  )
  return {
    ...meansOf(totals, scores),
    group_deviation: meanOf(deviations),
    groups_without_signal: meanOf(silent),
    answer_tokens: meanOf(answers.map(({ tokens, ending }) => tokens.length + Number(ending !== undefined))),
    answers_cut: meanOf(answers.map(({ ending }) => Number(ending === undefined))),
  }
}
