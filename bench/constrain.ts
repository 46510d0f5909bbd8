/**
 * What holding a text to a schema costs: the mask of each token, and how long other requests are held up while the vocabulary
 * and a schema are made ready. `--model` names a folder or file whose tokenizer is taken; no model runs.
 */

import { systemClock } from '../src/base/clock.ts'
import { Random } from '../src/base/random.ts'
import { ConstraintThread } from '../src/cli/constraint-maker.ts'
import { tokenTextsOf } from '../src/cli/token-texts.ts'
import { Automaton, type State } from '../src/constrain/automaton.ts'
import { type Constraint, Constraints, compileConstraint } from '../src/constrain/constraint.ts'
import { Vocabulary } from '../src/constrain/vocabulary.ts'
import { tablesOf, type VocabularyTables } from '../src/constrain/vocabulary-tables.ts'
import { type Bench, runFromCommandLine } from './harness/bench.ts'
import { roundedAll } from './harness/comparison.ts'

const parameters = { texts: { small: 1, large: 8 }, tokens: { small: 12, large: 300 } } as const

const many = (count: number, of: (i: number) => unknown) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`property ${i}`, of(i)]))

/** Schemas by what costs in them. */
const schemas: Readonly<Record<string, object>> = {
  strings: { type: 'array', items: { type: 'string' } },
  boundedStrings: { type: 'array', items: { type: 'string', maxLength: 200 } },
  numbers: { type: 'array', items: { type: 'number' } },
  words: { type: 'array', items: { enum: Array.from({ length: 500 }, (_, i) => `the word ${i}`) } },
  anything: { type: 'object' },
  wide: { type: 'object', properties: many(100, () => ({ type: ['string', 'null'], maxLength: 30 })) },
}

const largest: Constraint = { kind: 'json', schema: { type: 'string', maxLength: 3500 } }

export const constrainBench: Bench<typeof parameters> = {
  name: 'constrain',
  parameters,
  run: async ({ texts, tokens }, { modelPath, say }) => {
    const vocabulary = tokenTextsOf(modelPath)
    const tables = tablesOf(vocabulary)
    const figures: Record<string, number> = { vocabulary: vocabulary.length }
    for (const [name, schema] of Object.entries(schemas)) {
      const times = { mask: [] as number[], walked: [] as number[] }
      for (let seed = 0; seed < texts; seed++) writeText(schema, tables, new Random(seed), tokens, times)
      say(`${name}: ${quantile(times.mask, 0.5)} ms a mask`)
      figures[`${name}MedianMs`] = quantile(times.mask, 0.5)
      figures[`${name}P99Ms`] = quantile(times.mask, 0.99)
      figures[`${name}MostMs`] = Math.max(...times.mask)
      if (times.walked.length > 0) figures[`${name}InsideWalkedMedianMs`] = quantile(times.walked, 0.5)
    }
    const began = systemClock.nowMs()
    new Constraints(() => tokenTextsOf(modelPath)).follow(largest)
    figures.readyInLoopMs = systemClock.nowMs() - began
    Object.assign(figures, await readyElsewhere(modelPath))
    return { figures: roundedAll(figures), comparisons: [] }
  },
}

/** Masks of one text that is drawn at random, none of them known before. */
function writeText(
  schema: object,
  tables: VocabularyTables,
  random: Random,
  tokensMax: number,
  times: { mask: number[]; walked: number[] },
): void {
  const compiled = compileConstraint({ kind: 'json', schema })
  if (!compiled.ok) throw new Error(compiled.message)
  const automaton = new Automaton(compiled.grammar)
  const vocabulary = new Vocabulary(tables)
  const timed = (state: State) => {
    const began = performance.now()
    const mask = vocabulary.maskOf(automaton, state)
    return { mask, ms: performance.now() - began }
  }
  let state = automaton.start
  for (let count = 0; count < tokensMax && state.open; count++) {
    // The same state with every token walked, in turn before and behind, as either warms the automaton for the other.
    const walked = { ...state, charactersLeft: undefined }
    if (state.charactersLeft !== undefined && count % 2 === 0) times.walked.push(timed(walked).ms)
    const { mask, ms } = timed(state)
    times.mask.push(ms)
    if (state.charactersLeft !== undefined && count % 2 === 1) times.walked.push(timed(walked).ms)
    state = automaton.walk(state, vocabulary.bytesOf(drawn(mask.words, random)))!
  }
}

function drawn(words: Int32Array, random: Random): number {
  for (;;) {
    const first = random.integer(words.length * 32)
    for (let i = 0; i < words.length * 32; i++) {
      const token = (first + i) % (words.length * 32)
      if ((words[token >> 5]! >>> (token & 31)) & 1) return token
    }
    throw new Error('a state that is open has a token')
  }
}

/** The same on a thread of its own: how long it takes, and the longest that this one was busy meanwhile. */
async function readyElsewhere(modelPath: string): Promise<Record<string, number>> {
  const constraints = new Constraints(() => tokenTextsOf(modelPath), new ConstraintThread(modelPath))
  const began = performance.now()
  let last = began
  let longest = 0
  let isReady = false
  const ready = constraints.prepare(largest)!.then(() => {
    constraints.follow(largest)
    isReady = true
  })
  while (!isReady) {
    await new Promise<void>((resolve) => setImmediate(resolve))
    longest = Math.max(longest, performance.now() - last)
    last = performance.now()
  }
  await ready
  return { readyElsewhereMs: performance.now() - began, longestPauseMs: longest }
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
}

await runFromCommandLine(import.meta.url, constrainBench)
