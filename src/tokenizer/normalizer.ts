import { toByteCharacters } from './byte-characters.ts'
import { JsonFields, unknownComponent } from './json-fields.ts'
import { compileOniguruma } from './oniguruma.ts'

/** Rewrites a stretch of text (between added tokens) before it is split. */
export type Normalizer = (text: string) => string

const rules: Readonly<Record<string, (fields: JsonFields) => Normalizer>> = {
  NFC: () => (text) => text.normalize('NFC'),
  NFD: () => (text) => text.normalize('NFD'),
  NFKC: () => (text) => text.normalize('NFKC'),
  NFKD: () => (text) => text.normalize('NFKD'),
  Lowercase: () => lowercase,
  StripAccents: () => (text) => text.replace(/\p{M}+/gu, ''),
  ByteLevel: () => toByteCharacters,
  Strip: strip,
  Prepend: prepend,
  Replace: replace,
  Sequence: sequence,
}

/** The normalizer of a tokenizer.json; null there means that text stays as it is. */
export function normalizerFromJson(json: unknown, where = 'normalizer'): Normalizer | undefined {
  if (json === null || json === undefined) return undefined
  const fields = new JsonFields(json, where)
  const name = fields.string('type')
  const rule = rules[name]
  if (rule === undefined) throw unknownComponent('normalizer', name, where)
  return rule(fields)
}

/** Letter by letter: to toLowerCase, a sigma at the end of a word is another letter than the sigma within. */
function lowercase(text: string): string {
  return text
    .split('Σ')
    .map((part) => part.toLowerCase())
    .join('σ')
}

function strip(fields: JsonFields): Normalizer {
  const left = fields.boolean('strip_left', true)
  const right = fields.boolean('strip_right', true)
  return (text) => {
    const kept = left ? text.replace(/^\p{White_Space}+/u, '') : text
    return right ? trimEnd(kept) : kept
  }
}

/** A regular expression anchored at the end is quadratic in the white space that it tries. */
function trimEnd(text: string): string {
  let end = text.length
  while (end > 0 && /\p{White_Space}/u.test(text[end - 1]!)) end--
  return text.slice(0, end)
}

function prepend(fields: JsonFields): Normalizer {
  const prefix = fields.string('prepend')
  return (text) => (text === '' ? '' : prefix + text)
}

function replace(fields: JsonFields): Normalizer {
  const pattern = patternFromJson(fields.fields('pattern'))
  const content = fields.string('content')
  return (text) => text.replaceAll(pattern, () => content)
}

function sequence(fields: JsonFields): Normalizer {
  const steps = fields
    .list('normalizers')
    .map((step, index) => normalizerFromJson(step, `${fields.where}.normalizers[${index}]`))
  return (text) => steps.reduce((current, step) => step?.(current) ?? current, text)
}

/** The `pattern` of Replace and Split: {"String": literal} or {"Regex": Oniguruma source}. */
export function patternFromJson(fields: JsonFields): string | RegExp {
  if (fields.raw('String') !== undefined) return fields.string('String')
  return compileOniguruma(fields.string('Regex'))
}
