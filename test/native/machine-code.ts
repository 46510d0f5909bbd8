/** What a compiler made of a function in a library, as objdump (binutils) shows it. */
import { spawnSync } from 'node:child_process'

export interface Loop {
  instructions: number
  /** Of these, those whose name is the one that was asked for. */
  counted: number
  /** Accesses of vectors of 512 bits on the stack: sums or factors that found no register. */
  spilled: number
}

function objdump(...args: string[]): string[] | undefined {
  const { status, stdout } = spawnSync('objdump', args, { encoding: 'utf8', maxBuffer: 1 << 28 })
  return status === 0 ? stdout.split('\n') : undefined
}

/** Functions whose readable name holds `part`, with where they begin and end; undefined without objdump. */
export function functionsWith(library: string, part: string): Map<string, [number, number]> | undefined {
  const table = objdump('--syms', '--demangle', library)
  if (table === undefined) return undefined
  const found = new Map<string, [number, number]>()
  for (const line of table) {
    const [, from, size, name] = /^([0-9a-f]{16}) .{7} \.text\s([0-9a-f]{16})\s+(.*)$/.exec(line) ?? []
    if (name?.includes(part) !== true) continue
    const first = Number.parseInt(from!, 16)
    const plain = name.replaceAll('(anonymous namespace)::', '')
    // Sets are linked in order: AVX-512 before the tiles, which have vectors of their own for few rows of q8.
    if (!found.has(plain)) found.set(plain, [first, first + Number.parseInt(size!, 16)])
  }
  return found
}

/** Every stretch of a function that ends in a jump back to its beginning and has `instruction` in it, the shortest first. */
export function loopsWith(
  library: string,
  [first, end]: readonly [number, number],
  instruction: string,
): Loop[] {
  const lines = objdump(
    '--disassemble',
    '--no-show-raw-insn',
    `--start-address=${first}`,
    `--stop-address=${end}`,
    library,
  )!
  const code = lines.flatMap((line) => {
    const [, at, text] = /^\s*([0-9a-f]+):\s+(.*)$/.exec(line) ?? []
    return text === undefined ? [] : [{ at: Number.parseInt(at!, 16), text }]
  })
  const places = new Map(code.map(({ at }, i) => [at, i]))
  return code
    .flatMap(({ text }, last) => {
      const [, target] = /^j\w+\s+([0-9a-f]+)\b/.exec(text) ?? []
      const begin = target === undefined ? undefined : places.get(Number.parseInt(target, 16))
      return begin === undefined || begin >= last ? [] : [code.slice(begin, last + 1)]
    })
    .map((body) => ({
      instructions: body.length,
      counted: body.filter(({ text }) => text.startsWith(instruction)).length,
      spilled: body.filter(({ text }) => /%zmm/.test(text) && /\(%r[sb]p/.test(text)).length,
    }))
    .filter(({ counted }) => counted > 0)
    .sort((a, b) => a.instructions - b.instructions)
}
