import { UserError } from '../base/errors.ts'

/**
 * Regular expressions of tokenizer files, which are written for Oniguruma, as JavaScript ones.
 *
 * What differs: \s \w \d follow Unicode properties, ^ and $ look at lines, (?i:...) and possessive
 * quantifiers exist, any character may be escaped. Groups capture nothing here, so back-references are refused.
 * Source: Oniguruma's doc/RE, with its default syntax (an interval takes no possessive +: `{1,3}+` repeats).
 */
export function compileOniguruma(pattern: string): RegExp {
  const source = new Translator(pattern).translate()
  try {
    return new RegExp(source, 'gv')
  } catch (error) {
    throw refused(pattern, 'JavaScript cannot compile it', error)
  }
}

const wordItems = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}'
const shorthands: Readonly<Record<string, string>> = {
  s: '\\p{White_Space}',
  S: '\\P{White_Space}',
  d: '\\p{Nd}',
  D: '\\P{Nd}',
  w: `[${wordItems}]`,
  W: `[^${wordItems}]`,
  h: '[0-9a-fA-F]',
  H: '[^0-9a-fA-F]',
}
const controls: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, a: 7, e: 27 }
const anchors: Readonly<Record<string, string>> = {
  A: '(?<![\\s\\S])',
  z: '(?![\\s\\S])',
  Z: '(?=\\n?(?![\\s\\S]))',
  b: `(?:(?<=[${wordItems}])(?![${wordItems}])|(?<![${wordItems}])(?=[${wordItems}]))`,
  B: `(?:(?<=[${wordItems}])(?=[${wordItems}])|(?<![${wordItems}])(?![${wordItems}]))`,
}
const posixClasses: Readonly<Record<string, string>> = {
  alnum: '\\p{Alphabetic}\\p{Nd}',
  alpha: '\\p{Alphabetic}',
  ascii: '\\p{ASCII}',
  blank: '\\p{Zs}\\t',
  cntrl: '\\p{Cc}',
  digit: '\\p{Nd}',
  lower: '\\p{Lowercase}',
  punct: '\\p{P}$+<=>\\^`\\|~',
  space: '\\p{White_Space}',
  upper: '\\p{Uppercase}',
  word: wordItems,
  xdigit: '0-9a-fA-F',
}

class Translator {
  readonly #pattern: string
  readonly #characters: string[]
  #at = 0
  #atomicGroups = 0

  constructor(pattern: string) {
    this.#pattern = pattern
    this.#characters = Array.from(pattern)
  }

  translate(): string {
    const source = this.#alternatives(false)
    if (this.#at < this.#characters.length) throw this.#refused('it closes a group that it never opened')
    return source
  }

  #alternatives(ignoreCase: boolean): string {
    let source = ''
    let ignoring = ignoreCase
    while (this.#at < this.#characters.length && this.#peek() !== ')') {
      if (this.#take('|')) {
        source += '|'
        continue
      }
      const switched = this.#caseSwitch()
      if (switched === undefined) source += this.#quantified(this.#atom(ignoring))
      else ignoring = switched
    }
    return source
  }

  /** (?i) and (?-i) hold to the end of their group. */
  #caseSwitch(): boolean | undefined {
    if (this.#takeAll('(?i)')) return true
    return this.#takeAll('(?-i)') ? false : undefined
  }

  #atom(ignoreCase: boolean): string {
    const character = this.#next()
    if (character === '(') return this.#group(ignoreCase)
    if (character === '[') return this.#class(ignoreCase)
    if (character === '.') return '[^\\n]'
    if (character === '^') return '(?<=\\n|(?<![\\s\\S]))'
    if (character === '$') return '(?=\\n|(?![\\s\\S]))'
    if ('*+?'.includes(character)) throw this.#refused(`nothing stands before "${character}"`)
    if (character !== '\\') return literal(character.codePointAt(0)!, ignoreCase)
    const anchor = anchors[this.#peek()]
    if (anchor !== undefined) {
      this.#at++
      return anchor
    }
    const escaped = this.#escape()
    return typeof escaped === 'string' ? escaped : literal(escaped, ignoreCase)
  }

  #group(ignoreCase: boolean): string {
    let open = '(?:'
    let ignoring = ignoreCase
    let atomic = false
    if (this.#take('?')) {
      if (this.#takeAll('i:')) ignoring = true
      else if (this.#takeAll('-i:')) ignoring = false
      else if (this.#take('>')) atomic = true
      else {
        const kind = [':', '=', '!', '<=', '<!'].find((text) => this.#takeAll(text))
        if (kind === undefined) throw this.#refused(`the group (?${this.#peek()} is not supported`)
        open = `(?${kind}`
      }
    }
    const inner = this.#alternatives(ignoring)
    if (!this.#take(')')) throw this.#refused('a group is never closed')
    return atomic ? this.#atomic(inner) : `${open}${inner})`
  }

  /** JavaScript has no atomic groups, but never backtracks into a look-ahead. */
  #atomic(inner: string): string {
    const name = `atomic${this.#atomicGroups++}`
    return `(?:(?=(?<${name}>${inner}))\\k<${name}>)`
  }

  #quantified(atom: string): string {
    let source = atom
    for (;;) {
      const interval = this.#interval()
      if (interval !== undefined) source = `(?:${source})${interval}`
      else if (this.#at < this.#characters.length && '*+?'.includes(this.#peek()))
        source = this.#repeated(source)
      else return source
    }
  }

  #repeated(atom: string): string {
    const greedy = `${isSingle(atom) ? atom : `(?:${atom})`}${this.#next()}`
    if (this.#take('?')) return `(?:${greedy}?)`
    return this.#take('+') ? this.#atomic(greedy) : greedy
  }

  #interval(): string | undefined {
    const found = /^\{(\d*)(,?)(\d*)\}/.exec(this.#characters.slice(this.#at, this.#at + 24).join(''))
    if (found === null) return undefined
    const [whole, least = '', comma = '', most = ''] = found
    if (least === '' && most === '') return undefined
    this.#at += whole.length
    const interval = `{${least === '' ? '0' : least}${comma}${most}}`
    // A fixed count with ? after it is an optional repetition, not a lazy one.
    return comma === ',' && this.#take('?') ? `${interval}?` : interval
  }

  #class(ignoreCase: boolean): string {
    const negated = this.#take('^') ? '^' : ''
    const operands: string[] = []
    let items = ''
    while (!this.#take(']')) {
      if (this.#at >= this.#characters.length) throw this.#refused('a character class is never closed')
      if (this.#takeAll('&&')) {
        operands.push(`[${items}]`)
        items = ''
      } else items += this.#classItem(ignoreCase)
    }
    if (operands.length > 0) items = [...operands, `[${items}]`].join('&&')
    return `[${negated}${items}]`
  }

  #classItem(ignoreCase: boolean): string {
    if (this.#takeAll('[:')) return this.#posixClass()
    if (this.#take('[')) return this.#class(ignoreCase)
    const first = this.#classCharacter()
    if (typeof first === 'string') return first
    const isRange = this.#peek() === '-' && ![undefined, ']'].includes(this.#characters[this.#at + 1])
    if (!isRange) return ignoreCase ? caseVariants(first).map(codeUnitEscape).join('') : codeUnitEscape(first)
    this.#at++
    const last = this.#classCharacter()
    if (typeof last === 'string') throw this.#refused('a range in a character class has no end')
    return ignoreCase ? this.#foldedRange(first, last) : `${codeUnitEscape(first)}-${codeUnitEscape(last)}`
  }

  #foldedRange(first: number, last: number): string {
    if (last - first > 4096) throw this.#refused('a range that ignores case is too long')
    const members = Array.from({ length: last - first + 1 }, (_, index) => caseVariants(first + index))
    return members.flat().map(codeUnitEscape).join('')
  }

  #classCharacter(): number | string {
    const character = this.#next()
    if (character !== '\\') return character.codePointAt(0)!
    if (this.#take('b')) return 8
    return this.#escape()
  }

  #posixClass(): string {
    const negated = this.#take('^')
    const end = this.#characters.indexOf(':', this.#at)
    const name = this.#characters.slice(this.#at, end).join('')
    const items = posixClasses[name]
    this.#at = end
    if (items === undefined || !this.#takeAll(':]')) throw this.#refused(`it has no class [:${name}:]`)
    return negated ? `[^${items}]` : items
  }

  /** What stands behind a backslash: a class as source, or the code point that it names. */
  #escape(): number | string {
    const character = this.#next()
    const shorthand = shorthands[character]
    if (shorthand !== undefined) return shorthand
    if (character === 'p' || character === 'P') return this.#property(character === 'P')
    if (controls[character] !== undefined) return controls[character]
    if (character === 'x' || character === 'u') return this.#hexadecimal(character === 'x' ? 2 : 4)
    if (/[0-9A-Za-z]/.test(character)) throw this.#refused(`\\${character} is not supported`)
    return character.codePointAt(0)!
  }

  #hexadecimal(digits: number): number {
    const rest = this.#characters.slice(this.#at, this.#at + 12).join('')
    const found = /^\{([0-9A-Fa-f]{1,6})\}/.exec(rest) ?? new RegExp(`^([0-9A-Fa-f]{${digits}})`).exec(rest)
    if (found === null) throw this.#refused('a hexadecimal escape has no digits')
    this.#at += found[0].length
    return Number.parseInt(found[1]!, 16)
  }

  #property(negatedLetter: boolean): string {
    if (!this.#take('{')) throw this.#refused('\\p has no {name}')
    const negated = this.#take('^') !== negatedLetter
    const end = this.#characters.indexOf('}', this.#at)
    if (end < 0) throw this.#refused('\\p{ is never closed')
    const name = this.#characters.slice(this.#at, end).join('')
    this.#at = end + 1
    const posix = posixClasses[name.toLowerCase()]
    if (posix !== undefined) return `[${negated ? '^' : ''}${posix}]`
    const property = [name, `Script=${name}`, `Script=${name.replace(/^Is/, '')}`].find(isProperty)
    if (property === undefined) throw this.#refused(`there is no Unicode property ${name}`)
    return `\\${negated ? 'P' : 'p'}{${property}}`
  }

  #peek(): string {
    return this.#characters[this.#at] ?? ''
  }

  #next(): string {
    const character = this.#characters[this.#at++]
    if (character === undefined) throw this.#refused('it ends too early')
    return character
  }

  #take(character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  #takeAll(text: string): boolean {
    if (this.#characters.slice(this.#at, this.#at + text.length).join('') !== text) return false
    this.#at += text.length
    return true
  }

  #refused(why: string): UserError {
    return refused(this.#pattern, why)
  }
}

function refused(pattern: string, why: string, cause?: unknown): UserError {
  return new UserError(
    `The tokenizer's regular expression ${JSON.stringify(pattern)} cannot be used: ${why}`,
    {
      fix: 'Use a tokenizer whose pre-tokenizer has a simpler pattern.',
      cause,
    },
  )
}

function isProperty(name: string): boolean {
  try {
    return new RegExp(`\\p{${name}}`, 'v').source !== ''
  } catch (error) {
    if (error instanceof SyntaxError) return false
    throw error
  }
}

/** True for sources that a quantifier binds to as a whole: one class, property, escape or character. */
function isSingle(source: string): boolean {
  return /^(?:\\[pP]\{[^}]*\}|\\u\{[^}]*\}|[0-9A-Za-z]|\[[^[\]]*\])$/.test(source)
}

function literal(codePoint: number, ignoreCase: boolean): string {
  const variants = ignoreCase ? caseVariants(codePoint) : [codePoint]
  return variants.length === 1 ? codeUnitEscape(variants[0]!) : `[${variants.map(codeUnitEscape).join('')}]`
}

function codeUnitEscape(codePoint: number): string {
  const character = String.fromCodePoint(codePoint)
  return /[0-9A-Za-z]/.test(character) ? character : `\\u{${codePoint.toString(16)}}`
}

/** Letters outside a pair of upper and lower case that fold onto one: long s, Kelvin sign, Angstrom sign. */
const foldedStrangers: Readonly<Record<string, number>> = { s: 0x17f, k: 0x212a, å: 0x212b }

function caseVariants(codePoint: number): number[] {
  const character = String.fromCodePoint(codePoint)
  const variants = [character, character.toLowerCase(), character.toUpperCase()]
    .filter((variant) => Array.from(variant).length === 1)
    .map((variant) => variant.codePointAt(0)!)
  const stranger = foldedStrangers[character.toLowerCase()]
  return [...new Set(stranger === undefined ? variants : [...variants, stranger])]
}
