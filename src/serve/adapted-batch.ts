/** Which rows of a batch have which adapter, as inputs of its graph. */
import { assert } from '../base/assert.ts'
import { type AdapterRuns, adapterLayers } from '../models/adapter-layers.ts'
import type { LinearLayers } from '../models/architecture.ts'
import type { AdaptedTensors } from '../models/packed-layers.ts'
import type { Graph } from '../runtime/graph.ts'
import { type AdapterBank, runsOf } from './adapters.ts'
import type { SequenceWork } from './executor.ts'

/** Slots of rows, -1 where there is no adapter: of all tokens, and of those whose logits are wanted. */
export interface BatchSlots {
  tokens: Int32Array
  outputs: Int32Array
}

/**
 * Undefined when nobody in the batch has an adapter. `rows` are those whose logits are wanted, of `rowCount` with
 * padding, which may become one more.
 */
export function slotsOf(
  bank: AdapterBank,
  sequences: readonly SequenceWork[],
  rows: readonly number[],
  rowCount: number,
): BatchSlots | undefined {
  if (sequences.every(({ adapter }) => adapter === undefined)) return undefined
  const tokens = Int32Array.from(
    sequences.flatMap(({ adapter, tokens: { length } }) => Array<number>(length).fill(bank.slotOf(adapter))),
  )
  // Rows of padding repeat the first token's.
  const outputsOf = (length: number) => Int32Array.from({ length }, (_, i) => tokens[rows[i] ?? 0]!)
  const outputs = outputsOf(rowCount)
  // The graph tells the two by their lengths: padding makes different ones equally long, and more of it does not.
  const ambiguous = rowCount === tokens.length && outputs.some((slot, i) => slot !== tokens[i])
  return { tokens, outputs: ambiguous ? outputsOf(rowCount + 1) : outputs }
}

/** What of the slots a graph is built for. */
export function slotsKey(bank: AdapterBank, slots: BatchSlots | undefined): string {
  if (slots === undefined) return ''
  if (!bank.shapesGraphs) return '/adapted'
  const shown = (all: Int32Array) => runsOf(all).map(({ slot, rows }) => `${slot}x${rows}`)
  return `/adapted ${shown(slots.tokens)} ${shown(slots.outputs)}`
}

export interface BuiltAdapters {
  packed: AdaptedTensors
  /** `layers` with what the adapters add. */
  plain(layers: LinearLayers): LinearLayers
  write(slots: BatchSlots): void
}

/** Adds the inputs of a batch with adapters to its graph. */
export function buildAdapters(
  graph: Graph,
  bank: AdapterBank,
  slots: BatchSlots,
  exact: boolean,
): BuiltAdapters {
  const tokens = graph.input('I32', [slots.tokens.length], 'adapters.tokens')
  const outputs = graph.input('I32', [slots.outputs.length], 'adapters.outputs')
  // Where every token's logits are wanted the two are the same.
  const isTokens = (rows: number) => rows === slots.tokens.length
  const checked = (rows: number) => {
    assert(isTokens(rows) || rows === slots.outputs.length, 'a network computes all rows or those of outputs')
    return rows
  }
  const [tokenRuns, outputRuns] = [runsOf(slots.tokens), runsOf(slots.outputs)]
  const runs: AdapterRuns = {
    runs: (rows) => (isTokens(checked(rows)) ? tokenRuns : outputRuns),
    factors: (slot, name) => bank.factors(slot, name),
    exact,
  }
  return {
    packed: {
      slots: (rows) => (isTokens(checked(rows)) ? tokens : outputs),
      tableOf: (product) => bank.tableOf(product),
    },
    plain: (layers) => adapterLayers(graph.ops, layers, runs),
    write: (current) => {
      tokens.write(current.tokens)
      outputs.write(current.outputs)
    },
  }
}
