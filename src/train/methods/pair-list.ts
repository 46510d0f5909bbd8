/** Pairs by number, read from stores of answers when they are asked for. */
import { assert } from '../../base/assert.ts'
import type { Sample, SourceLine } from '../data/sample.ts'
import { chosen, type SampleList } from '../data/sample-list.ts'

export interface Pair {
  left: Sample
  right: Sample
  /** 1: desirable, -1: undesirable; always 1 for chosen and rejected answers. */
  verdict: 1 | -1
}

export interface PairList {
  readonly length: number
  at(index: number): Pair
  /** Of both answers together. */
  tokensOf(index: number): number
  sourceOf(index: number): SourceLine
}

/** Answers that lie as chosen, rejected, chosen, ... */
export function pairsOf(answers: SampleList): PairList {
  assert(answers.length % 2 === 0, 'every chosen answer has a rejected one behind it')
  return {
    length: answers.length / 2,
    at: (index) => ({ left: whole(answers, 2 * index), right: whole(answers, 2 * index + 1), verdict: 1 }),
    tokensOf: (index) => answers.lengthOf(2 * index) + answers.lengthOf(2 * index + 1),
    sourceOf: (index) => answers.sourceOf(2 * index),
  }
}

/**
 * Answers with a verdict, whose weights are negative where that is bad: each with its verdict, and behind its prompt
 * the answer to the next prompt, as KTO's measure of distance. `others`: of {@link othersOf}.
 */
export function ratingsOf(answers: SampleList, others: Int32Array, tokensMax: number): PairList {
  const at = (index: number): Pair => {
    const left = whole(answers, index)
    const verdict = left.weights.some((weight) => weight < 0) ? -1 : 1
    const other = whole(answers, others[index]!)
    return { left: weighed(left), right: crossed(weighed(left), weighed(other), tokensMax), verdict }
  }
  return {
    length: answers.length,
    at,
    tokensOf: (index) => {
      const { left, right } = at(index)
      return left.tokens.length + right.tokens.length
    },
    sourceOf: (index) => answers.sourceOf(index),
  }
}

/** Of each answer: the number of the next one, around the end, that has another prompt; -1 where all have the same. */
export function othersOf(answers: SampleList): Int32Array {
  const { length } = answers
  const others = new Int32Array(length).fill(-1)
  const prompts = Float64Array.from({ length }, (_, index) => answers.promptHashOf(index))
  // Twice, as the last answers look for theirs among the first.
  for (let place = 2 * length - 1; place >= 0; place--) {
    const [index, next] = [place % length, (place + 1) % length]
    others[index] = prompts[next] === prompts[index] ? others[next]! : next
  }
  return others
}

/** The pairs of `list` with these numbers. */
export function chosenPairs(list: PairList, numbers: Int32Array): PairList {
  return {
    length: numbers.length,
    at: (index) => list.at(numbers[index]!),
    tokensOf: (index) => list.tokensOf(numbers[index]!),
    sourceOf: (index) => list.sourceOf(numbers[index]!),
  }
}

/** The answers of the pairs with these numbers, as they can be counted and looked at. */
export function answersOf(answers: SampleList, numbers: Int32Array, perPair: 1 | 2): SampleList {
  if (perPair === 2)
    return chosen(
      answers,
      Int32Array.from({ length: 2 * numbers.length }, (_, i) => 2 * numbers[i >> 1]! + (i & 1)),
    )
  const list = chosen(answers, numbers)
  return { ...list, part: (index, start, end) => weighed(list.part(index, start, end)) }
}

function whole(answers: SampleList, index: number): Sample {
  return answers.part(index, 0, answers.lengthOf(index))
}

/** The same with the verdict taken from its weights. */
function weighed(sample: Sample): Sample {
  return { ...sample, weights: sample.weights.map(Math.abs) }
}

/** The prompt of one sample with the answer of another, cut at `tokensMax`. */
function crossed(prompt: Sample, answer: Sample, tokensMax: number): Sample {
  const [head, tail] = [promptLength(prompt), promptLength(answer)]
  const length = Math.min(tokensMax, head + answer.tokens.length - tail)
  const part = <Values extends Int32Array | Float32Array>(first: Values, second: Values) =>
    [...first.subarray(0, head), ...second.subarray(tail)].slice(0, length)
  return {
    tokens: Int32Array.from(part(prompt.tokens, answer.tokens)),
    weights: Float32Array.from(part(prompt.weights, answer.weights)),
    source: prompt.source,
  }
}

function promptLength({ weights }: Sample): number {
  const first = weights.findIndex((weight, i) => i > 0 && weight !== 0)
  return first < 0 ? weights.length : first
}
