/**
 * Regular expressions as `pattern` of a JSON schema has them: those of ECMA-262 with the flag u (its section 22.2), but
 * for what looks around or back, which no automaton of bounded size knows.
 */
import {
  allBut,
  anyCharacter,
  type CharacterRange,
  type CharacterSet,
  character,
  characters,
  classEscapes,
  propertySet,
  withinLine,
} from './character-set.ts'

export type Expression =
  /** One character of these. */
  | { kind: 'set'; set: CharacterSet }
  /** One behind the other. */
  | { kind: 'sequence'; parts: readonly Expression[] }
  | { kind: 'either'; branches: readonly Expression[] }
  /** So many times; without `most` any number from `least` on. */
  | { kind: 'repeat'; part: Expression; least: number; most?: number }
  /** Nothing, at the beginning or the end of the text and nowhere else. */
  | { kind: 'start' }
  | { kind: 'end' }

/** Why a text is no expression, or none that is supported. */
export class ExpressionRefusal extends Error {}

/** Steps that all patterns of one schema may take together to become automata: about a quarter of a second. */
export const expressionWorkMax = 2_000_000
/** For each range of characters of a set: sorting and joining costs more than the other steps do. */
const rangeWork = 16

/** What is left of {@link expressionWorkMax}. */
export interface ExpressionBudget {
  work: number
}

/** Throws an {@link ExpressionRefusal} where nothing is left. */
export function spend(budget: ExpressionBudget, work: number): void {
  budget.work -= work
  if (budget.work < 0) throw tooLarge()
}

export function tooLarge(): ExpressionRefusal {
  return new ExpressionRefusal(
    'It becomes too large an automaton: let it repeat less, allow fewer characters, or anchor it with ^.',
  )
}

/** Groups inside one another. */
const depthMax = 100
const countMax = 100_000

/** Throws an {@link ExpressionRefusal}. */
export function parseExpression(source: string, budget: ExpressionBudget): Expression {
  return new Parser(source, budget).whole()
}

const controls: Readonly<Record<string, number>> = { t: 0x09, n: 0x0a, v: 0x0b, f: 0x0c, r: 0x0d }

class Parser {
  /** A character an item. */
  readonly #source: readonly string[]
  readonly #budget: ExpressionBudget
  #at = 0
  #depth = 0

  constructor(source: string, budget: ExpressionBudget) {
    this.#source = [...source]
    this.#budget = budget
  }

  whole(): Expression {
    const expression = this.#either()
    if (this.#at < this.#source.length) throw this.#refusal('There is no ( for this ).')
    return expression
  }

  #either(): Expression {
    if (this.#depth++ === depthMax) throw this.#refusal(`Groups lie at most ${depthMax} deep.`)
    const branches = [this.#sequence()]
    while (this.#take('|')) branches.push(this.#sequence())
    this.#depth--
    return branches.length === 1 ? branches[0]! : { kind: 'either', branches }
  }

  #sequence(): Expression {
    const parts: Expression[] = []
    for (let next = this.#peek(); next !== undefined && next !== '|' && next !== ')'; next = this.#peek()) {
      if (this.#take('^')) parts.push({ kind: 'start' })
      else if (this.#take('$')) parts.push({ kind: 'end' })
      else parts.push(this.#repeated(this.#atom()))
    }
    return parts.length === 1 ? parts[0]! : { kind: 'sequence', parts }
  }

  #repeated(part: Expression): Expression {
    const bounds = this.#bounds()
    if (bounds === undefined) return part
    // Which match is found first makes no difference to whether there is one.
    this.#take('?')
    if (this.#peek() === '+') throw this.#refusal('A possessive repeat, as a++, is not supported.')
    return { kind: 'repeat', part, ...bounds }
  }

  #bounds(): { least: number; most?: number } | undefined {
    if (this.#take('*')) return { least: 0 }
    if (this.#take('+')) return { least: 1 }
    if (this.#take('?')) return { least: 0, most: 1 }
    if (this.#peek() !== '{') return undefined
    const wrong = this.#refusal('Expected {2}, {2,} or {2,5}; a brace itself is written as \\{.')
    this.#at++
    const least = this.#count()
    if (least === undefined) throw wrong
    const most = this.#take(',') ? this.#count() : least
    if (!this.#take('}')) throw wrong
    if (most === undefined) return { least }
    if (most < least) throw this.#refusal('The bounds of a repeat are out of order.')
    return { least, most }
  }

  #count(): number | undefined {
    let digits = ''
    while (/^[0-9]$/.test(this.#peek() ?? '')) digits += this.#source[this.#at++]
    if (Number(digits) > countMax) throw this.#refusal(`A repeat is of at most ${countMax}.`)
    return digits === '' ? undefined : Number(digits)
  }

  #atom(): Expression {
    const next = this.#peek()!
    if ('*+?{'.includes(next)) throw this.#refusal(`There is nothing to repeat before ${next}.`)
    this.#at++
    if (next === '(') return this.#group()
    if (next === '[') return { kind: 'set', set: this.#class() }
    if (next === '.') return { kind: 'set', set: withinLine }
    const set = next === '\\' ? this.#escape(false) : next.codePointAt(0)!
    return { kind: 'set', set: typeof set === 'number' ? character(set) : set }
  }

  #group(): Expression {
    if (this.#take('?')) this.#groupHead()
    const inside = this.#either()
    if (!this.#take(')')) throw this.#refusal('A group is not closed: expected ).')
    return inside
  }

  /** What stands behind `(?`: a group that has a name or captures nothing is like any other. */
  #groupHead(): void {
    const rest = this.#source.slice(this.#at, this.#at + 40).join('')
    if (/^<?[=!]/.test(rest)) {
      const what = rest.startsWith('<')
        ? 'Lookbehind, (?<=...) and (?<!...),'
        : 'Lookahead, (?=...) and (?!...),'
      throw this.#refusal(`${what} is not supported.`)
    }
    const head = /^(:|<[\p{ID_Start}$_][\p{ID_Continue}$]*>)/u.exec(rest)?.[0]
    if (head === undefined)
      throw this.#refusal('Of groups that begin with (?, only (?:...) and (?<name>...) are supported.')
    this.#at += [...head].length
  }

  /** Behind `[`. */
  #class(): CharacterSet {
    const isNegated = this.#take('^')
    const ranges: CharacterRange[] = []
    while (!this.#take(']')) {
      const low = this.#classAtom()
      const isRange = this.#peek() === '-' && (this.#source[this.#at + 1] ?? ']') !== ']'
      if (!isRange) {
        ranges.push(...(typeof low === 'number' ? [[low, low] as const] : low))
        continue
      }
      this.#at++
      const high = this.#classAtom()
      if (typeof low !== 'number' || typeof high !== 'number')
        throw this.#refusal('A range goes from one character to another; a minus itself is written as \\-.')
      if (high < low) throw this.#refusal('The ends of a range are out of order.')
      ranges.push([low, high])
    }
    spend(this.#budget, ranges.length * rangeWork)
    const set = characters(ranges)
    return isNegated ? allBut(set) : set
  }

  #classAtom(): number | CharacterSet {
    const next = this.#peek()
    if (next === undefined) throw this.#refusal('A class is not closed: expected ].')
    this.#at++
    return next === '\\' ? this.#escape(true) : next.codePointAt(0)!
  }

  /** Behind a backslash: the character, or those, that it stands for. */
  #escape(inClass: boolean): number | CharacterSet {
    const letter = this.#peek()
    if (letter === undefined) throw this.#refusal('There is nothing behind the last backslash.')
    const known = classEscapes.get(letter) ?? controls[letter]
    if (known === undefined && !/^[\x21-\x2f\x3a-\x40[-`{-~]$/.test(letter))
      return this.#rareEscape(letter, inClass)
    this.#at++
    return known ?? letter.codePointAt(0)!
  }

  #rareEscape(letter: string, inClass: boolean): number | CharacterSet {
    if (letter === 'p' || letter === 'P') return this.#property(letter === 'P')
    if (letter === 'u') return this.#unicode()
    if (letter === 'x')
      return this.#matched(/^x([0-9a-f]{2})/i, 'Expected two hexadecimal digits, as in \\x41.')
    if (letter === 'b' && inClass) {
      this.#at++
      return 0x08
    }
    if (letter === 'b' || letter === 'B')
      throw this.#refusal('Edges of words, \\b and \\B, are not supported.')
    if (letter === 'k' || (/[1-9]/.test(letter) && !inClass))
      throw this.#refusal('Backreferences, as \\1 and \\k<name>, are not supported.')
    if (letter === '0' && !/^[0-9]$/.test(this.#source[this.#at + 1] ?? '')) {
      this.#at++
      return 0
    }
    const control = this.#source[this.#at + 1] ?? ''
    if (letter === 'c' && /^[A-Za-z]$/.test(control)) {
      this.#at += 2
      return control.codePointAt(0)! % 32
    }
    throw this.#refusal(`\\${letter} has no meaning in ECMA-262.`)
  }

  #property(isNegated: boolean): CharacterSet {
    const name = /^.\{([\w=]+)\}/.exec(this.#ahead(90))?.[1]
    const set = name === undefined ? undefined : propertySet(name)
    if (name === undefined || set === undefined)
      throw this.#refusal('Expected a property of Unicode, as in \\p{L} or \\p{Script=Greek}.')
    this.#at += name.length + 3
    spend(this.#budget, set.length * rangeWork)
    return isNegated ? allBut(set) : set
  }

  #unicode(): number {
    const wrong = 'Expected four hexadecimal digits, as in \\u00e9, or up to six in braces, as in \\u{1f600}.'
    if (this.#source[this.#at + 1] === '{') return this.#matched(/^u\{(0*[0-9a-f]{1,6})\}/i, wrong)
    const high = this.#matched(/^u([0-9a-f]{4})/i, wrong)
    const low = /^\\u(d[c-f][0-9a-f]{2})/i.exec(this.#ahead(6))?.[1]
    if (high < 0xd800 || high > 0xdbff || low === undefined) return high
    this.#at += 6
    return 0x10000 + ((high & 0x3ff) << 10) + (Number.parseInt(low, 16) & 0x3ff)
  }

  #matched(expected: RegExp, wrong: string): number {
    const match = expected.exec(this.#ahead(40))
    const point = Number.parseInt(match?.[1] ?? '', 16)
    if (match === null || point > anyCharacter.at(-1)![1]) throw this.#refusal(wrong)
    this.#at += match[0].length
    return point
  }

  #ahead(count: number): string {
    return this.#source.slice(this.#at, this.#at + count).join('')
  }

  #peek(): string | undefined {
    return this.#source[this.#at]
  }

  #take(wanted: string): boolean {
    const isThere = this.#source[this.#at] === wanted
    if (isThere) this.#at++
    return isThere
  }

  #refusal(why: string): ExpressionRefusal {
    return new ExpressionRefusal(`${why} (At character ${this.#at + 1} of the pattern.)`)
  }
}
