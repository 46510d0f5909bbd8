import type { Pair, PairList } from '../../../src/train/methods/pair-list.ts'

/** Pairs in memory as a list. */
export function listOfPairs(pairs: readonly Pair[]): PairList {
  return {
    length: pairs.length,
    at: (index) => pairs[index]!,
    tokensOf: (index) => pairs[index]!.left.tokens.length + pairs[index]!.right.tokens.length,
    sourceOf: (index) => pairs[index]!.left.source,
  }
}
