/** What a vocabulary is asked through: flat, so that it is made on one thread and used on another. */

/** Some tokens as a tree of their bytes, in the order of a walk. */
export interface TokenTree {
  /** Byte and depth of each node, and where its subtree ends. */
  readonly byte: Uint8Array
  readonly depth: Uint16Array
  readonly end: Int32Array
  /** Node n's own tokens lie in `tokens` from place `tokensFrom[n]` up to `tokensFrom[n + 1]`. */
  readonly tokensFrom: Int32Array
  readonly tokens: Int32Array
}

export interface VocabularyTables {
  /** What the tokens write, behind one another: that of token t from place `offsets[t]` up to `offsets[t + 1]`. */
  readonly bytes: Uint8Array
  readonly offsets: Int32Array
  readonly all: TokenTree
  /**
   * Characters of each token that may stand within a JSON string as it is, and that `.` of a regular expression stands
   * for; 0 for any other token.
   */
  readonly plain: Uint16Array
  /** Those other tokens: that end a string, escape, or hold a part of a character. */
  readonly others: TokenTree
}

/** `texts[t]` is what token t writes; undefined or empty for tokens that are no text, which are never allowed. */
export function tablesOf(texts: readonly (Uint8Array | undefined)[]): VocabularyTables {
  const offsets = new Int32Array(texts.length + 1)
  for (const [token, text] of texts.entries()) offsets[token + 1] = offsets[token]! + (text?.length ?? 0)
  const bytes = new Uint8Array(offsets[texts.length]!)
  for (const [token, text] of texts.entries()) if (text !== undefined) bytes.set(text, offsets[token])
  const plain = Uint16Array.from(texts, (text) => (text === undefined ? 0 : plainCharacters(text)))
  const written = texts.map((text) => Buffer.from(text ?? []).toString('latin1'))
  const order = Int32Array.from(written.keys()).filter((token) => written[token] !== '')
  order.sort((a, b) => (written[a]! < written[b]! ? -1 : written[a]! > written[b]! ? 1 : a - b))
  const others = order.filter((token) => plain[token] === 0)
  return { bytes, offsets, plain, all: treeOf(order, written), others: treeOf(others, written) }
}

/** What of the tables may be handed over to another thread. */
export function buffersOfTables({ bytes, offsets, plain, all, others }: VocabularyTables): ArrayBuffer[] {
  const trees = [all, others].flatMap(({ byte, depth, end, tokensFrom, tokens }) => [
    byte,
    depth,
    end,
    tokensFrom,
    tokens,
  ])
  return [bytes, offsets, plain, ...trees].map(({ buffer }) => buffer as ArrayBuffer)
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Characters, where the text is whole ones that a JSON string holds unescaped and that end no line; else 0. */
function plainCharacters(text: Uint8Array): number {
  if (text.some((byte) => byte < 0x20 || byte === 0x22 || byte === 0x5c)) return 0
  try {
    if (/[\u2028\u2029]/.test(utf8.decode(text))) return 0
  } catch (error) {
    if (error instanceof TypeError) return 0
    throw error
  }
  return text.reduce((count, byte) => count + Number((byte & 0xc0) !== 0x80), 0)
}

/** `order`: tokens sorted by what they write. */
function treeOf(order: Int32Array, texts: readonly string[]): TokenTree {
  const nodes: { byte: number; depth: number; from: number }[] = []
  let before = ''
  for (const [place, token] of order.entries()) {
    const text = texts[token]!
    let shared = 0
    while (shared < before.length && text.charCodeAt(shared) === before.charCodeAt(shared)) shared++
    // A node's tokens are those of its own text, which come before all longer ones.
    for (let at = shared; at < text.length; at++) {
      nodes.push({ byte: text.charCodeAt(at), depth: at, from: place })
    }
    before = text
  }
  const depth = Uint16Array.from(nodes, (node) => node.depth)
  // Nodes above a token's own begin at the same token: what they hold begins and ends there.
  const tokensFrom = new Int32Array(nodes.length + 1).fill(order.length)
  for (const [i, { from }] of nodes.entries()) tokensFrom[i] = from
  return {
    byte: Uint8Array.from(nodes, ({ byte }) => byte),
    depth,
    end: subtreeEnds(depth),
    tokensFrom,
    tokens: order,
  }
}

function subtreeEnds(depths: Uint16Array): Int32Array {
  const ends = new Int32Array(depths.length)
  const open: number[] = []
  for (let node = 0; node < depths.length; node++) {
    while (open.length > depths[node]!) ends[open.pop()!] = node
    open.push(node)
  }
  for (const node of open) ends[node] = depths.length
  return ends
}
