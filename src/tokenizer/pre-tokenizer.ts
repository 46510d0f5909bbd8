import { UserError } from '../base/errors.ts'
import { toByteCharacters } from './byte-characters.ts'
import { JsonFields, unknownComponent } from './json-fields.ts'
import { patternFromJson } from './normalizer.ts'
import { compileOniguruma } from './oniguruma.ts'
import { type SplitBehavior, split, splitBehaviors } from './split.ts'
import { gpt2Pattern, scannerOf, type WordScanner } from './word-scanner.ts'

/** One step: cuts every piece further. `first` says that the first piece begins the whole text. */
interface Step {
  (pieces: string[], first: boolean): string[]
  /** Finds the same words one by one. */
  scanner?: WordScanner | undefined
}

/** Cuts normalized text into the words that the model encodes one by one. */
export interface PreTokenizer {
  split(text: string, first: boolean): string[]
  /**
   * The model's pieces are byte characters while the words here are still text: a byte-level model encodes the
   * UTF-8 bytes of each word itself, which spares writing and hashing them twice.
   */
  readonly byteLevel: boolean
  /** Finds the words of `split` one by one, where there is nothing else to do. */
  readonly scanner?: WordScanner | undefined
}

const rules: Readonly<Record<string, (fields: JsonFields) => Step[]>> = {
  Sequence: (fields) => fields.fieldsList('pretokenizers').flatMap((step) => stepsFromJson(step)),
  ByteLevel: byteLevelSteps,
  Split: (fields) => [splitStep(fields)],
  Metaspace: (fields) => [metaspaceStep(fields)],
  Digits: (fields) => {
    const behavior = fields.boolean('individual_digits', false) ? 'Isolated' : 'Contiguous'
    return [each((piece) => split(piece, /\p{N}/gu, behavior))]
  },
  Punctuation: (fields) => {
    const behavior = behaviorOf(fields, 'Isolated')
    return [each((piece) => split(piece, /[\p{P}$+<=>^`|~]/gu, behavior))]
  },
  Whitespace: () => {
    const words = compileOniguruma('\\w+|[^\\w\\s]+')
    return [each((piece) => split(piece, words, 'Removed', true))]
  },
  WhitespaceSplit: () => [each((piece) => split(piece, /\p{White_Space}/gu, 'Removed'))],
  CharDelimiterSplit: (fields) => {
    const delimiter = fields.string('delimiter')
    return [each((piece) => split(piece, delimiter, 'Removed'))]
  },
}

/** The pre-tokenizer of a tokenizer.json; null there makes the whole text one word. */
export function preTokenizerFromJson(json: unknown): PreTokenizer {
  const steps =
    json === null || json === undefined ? [] : stepsFromJson(new JsonFields(json, 'pre_tokenizer'))
  const byteLevel = steps.at(-1) === mapToByteCharacters
  if (byteLevel) steps.pop()
  return {
    byteLevel,
    scanner: byteLevel && steps.length === 1 ? steps[0]!.scanner : undefined,
    split: (text, first) => steps.reduce((pieces, step) => step(pieces, first), text === '' ? [] : [text]),
  }
}

function stepsFromJson(fields: JsonFields): Step[] {
  const name = fields.string('type')
  const rule = rules[name]
  if (rule === undefined) throw unknownComponent('pre-tokenizer', name, fields.where)
  return rule(fields)
}

/** A step that treats all pieces alike. */
function each(cut: (piece: string) => string[]): Step {
  return (pieces) => (pieces.length === 1 ? cut(pieces[0]!) : pieces.flatMap(cut))
}

const mapToByteCharacters: Step = (pieces) => pieces.map(toByteCharacters)

function byteLevelSteps(fields: JsonFields): Step[] {
  const steps: Step[] = []
  if (fields.boolean('add_prefix_space', true))
    steps.push((pieces) => pieces.map((piece) => (piece.startsWith(' ') ? piece : ` ${piece}`)))
  if (fields.boolean('use_regex', true)) {
    steps.push(isolated(gpt2Pattern))
  }
  return [...steps, mapToByteCharacters]
}

function splitStep(fields: JsonFields): Step {
  const behavior = behaviorOf(fields)
  const invert = fields.boolean('invert', false)
  const source = fields.fields('pattern').raw('Regex')
  if (typeof source === 'string' && behavior === 'Isolated' && !invert) return isolated(source)
  const pattern = patternFromJson(fields.fields('pattern'))
  return each((piece) => split(piece, pattern, behavior, invert))
}

/** Cuts around the matches of a pattern in Oniguruma's syntax. */
function isolated(source: string): Step {
  const pattern = compileOniguruma(source)
  const step: Step = each((piece) => split(piece, pattern, 'Isolated'))
  step.scanner = scannerOf(source)
  return step
}

function metaspaceStep(fields: JsonFields): Step {
  const mark = fields.string('replacement', '▁')
  const legacyScheme = fields.boolean('add_prefix_space', true) ? 'always' : 'never'
  const scheme = fields.string('prepend_scheme', legacyScheme)
  const cuts = fields.boolean('split', true)
  return (pieces, first) =>
    pieces.flatMap((piece, index) => {
      const marked = piece.replaceAll(' ', () => mark)
      const due = scheme === 'always' || (scheme === 'first' && first && index === 0)
      const whole = due && !marked.startsWith(mark) ? mark + marked : marked
      return cuts ? split(whole, mark, 'MergedWithNext') : [whole]
    })
}

function behaviorOf(fields: JsonFields, absent?: SplitBehavior): SplitBehavior {
  const name = fields.string('behavior', absent)
  const behavior = splitBehaviors.find((known) => known === name)
  if (behavior === undefined)
    throw new UserError(`${fields.where}.behavior: "${name}" is not one of ${splitBehaviors.join(', ')}`)
  return behavior
}
