/** Sets of characters: Unicode scalar values, so without surrogates, which no UTF-8 has. */

/** From its first to its last character. */
export type CharacterRange = readonly [first: number, last: number]
/** In order, apart from one another. */
export type CharacterSet = readonly CharacterRange[]

const lastCharacter = 0x10ffff

export const anyCharacter: CharacterSet = [
  [0, 0xd7ff],
  [0xe000, lastCharacter],
]

/** All characters of these ranges, which may lie in any order and over one another. */
export function characters(ranges: readonly CharacterRange[]): CharacterSet {
  const joined: [number, number][] = []
  for (const [first, last] of ranges.toSorted((a, b) => a[0] - b[0])) {
    const before = joined.at(-1)
    if (before !== undefined && first <= before[1] + 1) before[1] = Math.max(before[1], last)
    else joined.push([first, last])
  }
  return joined.flatMap(([first, last]) =>
    anyCharacter.flatMap(([low, high]): CharacterRange[] => {
      const [least, most] = [Math.max(first, low), Math.min(last, high)]
      return least <= most ? [[least, most]] : []
    }),
  )
}

export function allBut(set: CharacterSet): CharacterSet {
  const ranges: CharacterRange[] = []
  let from = 0
  for (const [first, last] of set) {
    if (from < first) ranges.push([from, first - 1])
    from = last + 1
  }
  if (from <= lastCharacter) ranges.push([from, lastCharacter])
  return characters(ranges)
}

export function character(point: number): CharacterSet {
  return characters([[point, point]])
}

const digit: CharacterSet = [[0x30, 0x39]]
const word = characters([
  [0x30, 0x39],
  [0x41, 0x5a],
  [0x5f, 0x5f],
  [0x61, 0x7a],
])
/** WhiteSpace and LineTerminator of ECMA-262. */
const space = characters([
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
])

/** What `.` stands for: any character that ends no line. */
export const withinLine = allBut(
  characters([
    [0x0a, 0x0a],
    [0x0d, 0x0d],
    [0x2028, 0x2029],
  ]),
)

/** By the letter behind the backslash. */
export const classEscapes: ReadonlyMap<string, CharacterSet> = new Map([
  ['d', digit],
  ['D', allBut(digit)],
  ['w', word],
  ['W', allBut(word)],
  ['s', space],
  ['S', allBut(space)],
])

const properties = new Map<string, CharacterSet | undefined>()
/** There are about 400 in all, with their aliases; what nobody knows is not remembered. */
const propertiesMax = 32
let everyCharacter: string | undefined

/** The characters of a Unicode property, as `L` or `Script=Greek`; undefined where there is none of that name. */
export function propertySet(name: string): CharacterSet | undefined {
  if (!/^\w{1,40}(=\w{1,40})?$/.test(name)) return undefined
  const known = properties.get(name)
  if (known !== undefined) return known
  let runs: RegExp
  try {
    runs = new RegExp(`\\p{${name}}+`, 'gu')
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
  everyCharacter ??= anyCharacter.map(([first, last]) => textOf(first, last)).join('')
  const ranges = Array.from(everyCharacter.matchAll(runs), ({ index, 0: run }): CharacterRange => {
    const end = index + run.length
    const last = everyCharacter!.codePointAt(end - 2)! > 0xffff ? end - 2 : end - 1
    return [run.codePointAt(0)!, everyCharacter!.codePointAt(last)!]
  })
  const set = characters(ranges)
  if (properties.size < propertiesMax) properties.set(name, set)
  return set
}

function textOf(first: number, last: number): string {
  const chunks: string[] = []
  for (let from = first; from <= last; from += 4096) {
    const points = Array.from({ length: Math.min(4096, last + 1 - from) }, (_, i) => from + i)
    chunks.push(String.fromCodePoint(...points))
  }
  return chunks.join('')
}
