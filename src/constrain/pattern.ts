/** Texts that are not JSON alone, put together of parts: what a model writes around the JSON it is held to. */

import { type FreeText, freeText } from './free-text.ts'
import { callDepthMax, GrammarBuilder, returnNode, SchemaRefusal } from './grammar.ts'
import { type Compiled, SchemaCompiler } from './schema.ts'
import { specialBytes } from './token-bytes.ts'

/** A set of texts. As JSON it goes from process to process. */
export type Pattern =
  | { literal: string }
  /** A special token, by what it is spelt. */
  | { special: string }
  /** A JSON value that fits the schema; `loose` reads over keywords that cannot be kept. */
  | { json: unknown; loose?: boolean }
  /** One behind the other. */
  | { sequence: readonly Pattern[] }
  | { either: readonly Pattern[] }
  /** Once or more. */
  | { repeated: Pattern }
  | FreeText

/** The grammar of a pattern's texts; `path` of a refusal is within the schema that is to blame. */
export function compilePattern(pattern: Pattern): Compiled {
  try {
    const grammar = new GrammarBuilder()
    const compiled = grammar.finish(build(grammar, pattern, returnNode))
    if (compiled.heights[compiled.start]! >= callDepthMax)
      throw new SchemaRefusal('', 'No text fits: what it requires is impossible or has no end.')
    return { ok: true, grammar: compiled }
  } catch (error) {
    if (!(error instanceof SchemaRefusal)) throw error
    return { ok: false, path: error.path, message: error.message }
  }
}

function build(grammar: GrammarBuilder, pattern: Pattern, next: number): number {
  if ('literal' in pattern) return grammar.literal(pattern.literal, next)
  if ('special' in pattern) return grammar.sequence(specialBytes(pattern.special), next)
  if ('json' in pattern) return new SchemaCompiler(pattern.json, grammar, pattern.loose).compile(next)
  if ('sequence' in pattern)
    return pattern.sequence.reduceRight((behind, part) => build(grammar, part, behind), next)
  if ('free' in pattern) return freeText(grammar, pattern, next)
  const start = grammar.node()
  if ('either' in pattern) {
    for (const part of pattern.either) grammar.empty(start, build(grammar, part, next))
    return start
  }
  const behind = grammar.node()
  grammar.empty(behind, next)
  grammar.empty(behind, start)
  grammar.empty(start, build(grammar, pattern.repeated, behind))
  return start
}
