import type { GrammarBuilder } from './grammar.ts'
import { specialBytes } from './token-bytes.ts'

/** Any text, perhaps none, in which certain others do not occur. */
export interface FreeText {
  free: {
    /** Occur nowhere, neither spelt nor as special tokens. */
    without: readonly string[]
    /** The same for its beginning, behind white space. */
    notFirst: readonly string[]
  }
}

const whiteSpace = ' \t\r\n'

/** Where the reading of what may not occur stands: how far into one, and into what may not be first. */
interface Place {
  readonly inside: string
  /** Undefined when the beginning is over. */
  readonly first: string | undefined
}

/**
 * The states of an automaton that has seen, of each text that may not occur, the longest beginning that the text so far
 * ends in (Aho and Corasick 1975). Texts are held as latin1, a character a byte.
 */
export function freeText(grammar: GrammarBuilder, { free }: FreeText, next: number): number {
  const both = (texts: readonly string[]) =>
    texts.flatMap((text) => [latin1(Buffer.from(text)), latin1(specialBytes(text))])
  const without = both(free.without)
  const notFirst = both(free.notFirst)
  const nodes = new Map<string, number>()
  const pending: { place: Place; node: number }[] = []
  const nodeAt = (place: Place): number => {
    const key = `${place.inside}\n${place.first ?? ''}${place.first === undefined}`
    let node = nodes.get(key)
    if (node === undefined) {
      node = grammar.node()
      grammar.empty(node, next)
      nodes.set(key, node)
      pending.push({ place, node })
    }
    return node
  }
  const start = nodeAt({ inside: '', first: notFirst.length > 0 ? '' : undefined })
  for (let open = pending.pop(); open !== undefined; open = pending.pop()) {
    const { place, node } = open
    const targets = Array.from({ length: 256 }, (_, byte) => {
      const behind = step(place, String.fromCharCode(byte), without, notFirst)
      return behind && nodeAt(behind)
    })
    for (let low = 0, byte = 0; byte < 256; byte++) {
      if (targets[byte] === targets[byte + 1] && byte < 255) continue
      const to = targets[low]
      if (to !== undefined) grammar.bytes(node, low, byte, to)
      low = byte + 1
    }
  }
  return start
}

function step(
  { inside, first }: Place,
  byte: string,
  without: readonly string[],
  notFirst: readonly string[],
): Place | undefined {
  let reached = inside + byte
  while (reached !== '' && !without.some((text) => text.startsWith(reached))) reached = reached.slice(1)
  if (without.includes(reached)) return undefined
  if (first === undefined) return { inside: reached, first }
  if (first === '' && whiteSpace.includes(byte)) return { inside: reached, first }
  const begun = first + byte
  if (notFirst.includes(begun)) return undefined
  return { inside: reached, first: notFirst.some((text) => text.startsWith(begun)) ? begun : undefined }
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}
