/** One place in a grammar. Whatever a node leads to can be reached by exactly one of these. */
interface Node {
  /** Reads one byte of [low, high]. */
  readonly bytes: { low: number; high: number; to: number }[]
  /** Reads nothing. */
  readonly empty: number[]
  /** Reads what the rule reads, then goes on at `to`. */
  readonly calls: { rule: number; to: number }[]
}

/** Edges of all nodes behind one another: those of node n lie in `items` from place `from[n]` up to `from[n + 1]`. */
export interface Edges {
  readonly from: Int32Array
  readonly items: Int32Array
}

/**
 * A grammar over bytes: a recursive transition network (Woods 1970). Its node 0 is where rules return. Flat, so that it
 * goes from thread to thread without being copied.
 */
export interface Grammar {
  readonly nodeCount: number
  /** Three numbers an edge: it reads one byte of [low, high] and leads to a node. */
  readonly bytes: Edges
  /** A number an edge: a node that is reached by reading nothing. */
  readonly empty: Edges
  /** Two numbers an edge: a rule, and where to go on behind what it reads. */
  readonly calls: Edges
  /** Where each rule begins. */
  readonly rules: Int32Array
  readonly start: number
  /** The fewest calls inside one another that reach a return from each node; Infinity where none do. */
  readonly heights: Float64Array
  /** Of nodes within a JSON string: how many characters may still follow there, Infinity for any number. */
  readonly strings: ReadonlyMap<number, number>
  /** [256]: bytes of one class are told apart by no edge. */
  readonly classOf: Uint8Array
}

/** What of a grammar may be handed over to another thread. */
export function buffersOf({ bytes, empty, calls, rules, heights, classOf }: Grammar): ArrayBuffer[] {
  const arrays = [bytes, empty, calls].flatMap(({ from, items }) => [from, items])
  return [...arrays, rules, heights, classOf].map(({ buffer }) => buffer as ArrayBuffer)
}

export const returnNode = 0

/** Rules inside one another while a text is read: of values where a $ref, a list's items or a value of any type begins. */
export const callDepthMax = 64

/** Why a schema becomes no grammar. `path` is where in the schema, its keys joined by dots. */
export class SchemaRefusal extends Error {
  readonly path: string

  constructor(path: string, message: string) {
    super(message)
    this.path = path
  }
}

/** Nodes of one grammar; a schema that takes more is refused. */
const nodesMax = 50_000

/** Builds a grammar backwards: every part is given the node that follows it and returns the one it begins at. */
export class GrammarBuilder {
  readonly #nodes: Node[] = [{ bytes: [], empty: [], calls: [] }]
  readonly #rules: number[] = []
  readonly #strings = new Map<number, number>()

  node(): number {
    if (this.#nodes.length === nodesMax)
      throw new SchemaRefusal('', `It is too large: bounds and lists become more than ${nodesMax} states.`)
    return this.#nodes.push({ bytes: [], empty: [], calls: [] }) - 1
  }

  /** Within a JSON string in which so many characters may still stand, whatever they are. */
  insideString(node: number, charactersLeft: number): void {
    this.#strings.set(node, charactersLeft)
  }

  bytes(from: number, low: number, high: number, to: number): void {
    this.#nodes[from]!.bytes.push({ low, high, to })
  }

  /** One of these ASCII characters. */
  characters(from: number, characters: string, to: number): void {
    for (const character of characters) {
      const byte = character.charCodeAt(0)
      this.bytes(from, byte, byte, to)
    }
  }

  empty(from: number, to: number): void {
    this.#nodes[from]!.empty.push(to)
  }

  call(from: number, rule: number, to: number): void {
    this.#nodes[from]!.calls.push({ rule, to })
  }

  /** Exactly this text, then `next`. */
  literal(text: string, next: number): number {
    return this.sequence(Buffer.from(text), next)
  }

  /** Exactly these bytes, then `next`. */
  sequence(bytes: Uint8Array, next: number): number {
    let at = next
    for (const byte of bytes.toReversed()) {
      const before = this.node()
      this.bytes(before, byte, byte, at)
      at = before
    }
    return at
  }

  /** A rule to call, even before it is known where it begins; it ends at the {@link returnNode}. */
  rule(): { id: number; begin: (start: number) => void } {
    const id = this.#rules.push(returnNode) - 1
    return {
      id,
      begin: (start) => {
        this.#rules[id] = start
      },
    }
  }

  finish(start: number): Grammar {
    const nodes = this.#nodes
    const rules = this.#rules
    if (callsItself(nodes, rules))
      throw new SchemaRefusal('', 'A $ref leads back to itself without anything in between.')
    return {
      nodeCount: nodes.length,
      bytes: edgesOf(nodes, 'bytes', ({ low, high, to }) => [low, high, to]),
      empty: edgesOf(nodes, 'empty', (to) => [to]),
      calls: edgesOf(nodes, 'calls', ({ rule, to }) => [rule, to]),
      rules: Int32Array.from(rules),
      start,
      heights: Float64Array.from(heightsOf(nodes, rules)),
      strings: this.#strings,
      classOf: classesOf(nodes),
    }
  }
}

function edgesOf<Kind extends keyof Node>(
  nodes: readonly Node[],
  kind: Kind,
  numbersOf: (edge: Node[Kind][number]) => number[],
): Edges {
  const from = new Int32Array(nodes.length + 1)
  const items: number[] = []
  for (const [index, node] of nodes.entries()) {
    for (const edge of node[kind]) items.push(...numbersOf(edge as Node[Kind][number]))
    from[index + 1] = items.length
  }
  return { from, items: Int32Array.from(items) }
}

function classesOf(nodes: readonly Node[]): Uint8Array {
  // A byte's signature: which edges take it. Edges begin and end at few places.
  const begins = new Uint8Array(257)
  for (const { bytes } of nodes) {
    for (const { low, high } of bytes) {
      begins[low] = 1
      begins[high + 1] = 1
    }
  }
  const classes = new Uint8Array(256)
  for (let byte = 1; byte < 256; byte++) classes[byte] = classes[byte - 1]! + begins[byte]!
  return classes
}

function heightsOf(nodes: readonly Node[], rules: readonly number[]): number[] {
  const heights = nodes.map((_, node) => (node === returnNode ? 0 : Number.POSITIVE_INFINITY))
  const heightOf = ({ bytes, empty, calls }: Node): number => {
    let least = Number.POSITIVE_INFINITY
    for (const { to } of bytes) least = Math.min(least, heights[to]!)
    for (const to of empty) least = Math.min(least, heights[to]!)
    for (const { rule, to } of calls) {
      least = Math.min(least, Math.max(1 + heights[rules[rule]!]!, heights[to]!))
    }
    return least
  }
  // Parts are built from behind, so a pass settles all but what calls forward; every pass settles a rule at least.
  for (let changed = true; changed; ) {
    changed = false
    for (let node = 1; node < nodes.length; node++) {
      const height = heightOf(nodes[node]!)
      if (height < heights[node]!) {
        heights[node] = height
        changed = true
      }
    }
  }
  return heights
}

/** Whether a rule may call itself before a byte is read (no rule reads nothing). */
function callsItself(nodes: readonly Node[], rules: readonly number[]): boolean {
  const called = rules.map((start) => callsAtOnce(nodes, start))
  const callers = rules.map(() => 0)
  for (const list of called) for (const rule of list) callers[rule]!++
  // Kahn 1962: what is left when all that nobody calls has been taken away is a circle.
  const free = callers.flatMap((count, rule) => (count === 0 ? [rule] : []))
  let taken = 0
  for (let rule = free.pop(); rule !== undefined; rule = free.pop()) {
    taken++
    for (const other of called[rule]!) if (--callers[other]! === 0) free.push(other)
  }
  return taken < rules.length
}

function callsAtOnce(nodes: readonly Node[], start: number): ReadonlySet<number> {
  const seen = new Set([start])
  const rules = new Set<number>()
  for (const node of seen) {
    for (const to of nodes[node]!.empty) seen.add(to)
    for (const { rule } of nodes[node]!.calls) rules.add(rule)
  }
  return rules
}
