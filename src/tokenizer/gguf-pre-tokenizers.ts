import { UserError } from '../base/errors.ts'
import { cl100kPattern, gpt2Pattern } from './word-scanner.ts'

/** How the byte-level vocabularies of GGUF files cut text, by the name in tokenizer.ggml.pre. */
export interface GgufPreTokenizer {
  names: readonly string[]
  /** Cut one after the other, in Oniguruma syntax. */
  patterns: readonly string[]
  ignoreMerges?: boolean
  addBos?: boolean
  normalizer?: 'NFC'
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const upperWord = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const lowerWord = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const spaces = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

/** o200k's pattern: words break where capitals begin; `suffix` follows each word. */
const o200k = (suffix: string, digits: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?${upperWord}*${lowerWord}+${suffix}|[^\\r\\n\\p{L}\\p{N}]?${upperWord}+${lowerWord}*${suffix}` +
  `|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${spaces}`

const known: readonly GgufPreTokenizer[] = [
  {
    names: [
      'default',
      'gpt-2',
      'phi-2',
      'jina-es',
      'jina-de',
      'jina-v2-es',
      'jina-v2-de',
      'olmo',
      'mpt',
      'gigachat',
    ],
    patterns: [gpt2Pattern],
  },
  {
    names: ['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'lfm2', 'midm-2.0'],
    patterns: [cl100kPattern('{1,3}')],
    ignoreMerges: true,
    addBos: true,
  },
  { names: ['dbrx', 'smaug-bpe', 'chatglm-bpe', 'glm4'], patterns: [cl100kPattern('{1,3}')] },
  {
    names: ['qwen2', 'deepseek-r1-qwen', 'megrez'],
    patterns: [cl100kPattern('')],
    // The GGUF file does not say it, but these tokenizers compose characters first.
    normalizer: 'NFC',
  },
  { names: ['stablelm2', 'hunyuan'], patterns: [cl100kPattern('')] },
  { names: ['gpt-4o', 'llama4'], patterns: [o200k(`${contractions}?`, '{1,3}')], ignoreMerges: true },
  { names: ['tekken'], patterns: [o200k('', '')], ignoreMerges: true },
  {
    names: ['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone'],
    patterns: ['\\p{N}', gpt2Pattern],
  },
  {
    names: ['deepseek-v3'],
    patterns: [
      '\\p{N}{1,3}',
      '[一-龥぀-ゟ゠-ヿ]+',
      '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+' +
        `| ?[\\p{P}\\p{S}]+[\\r\\n]*|${spaces}`,
    ],
  },
]

/** The one called `name`; files from before the field existed hold GPT-2's. */
export function ggufPreTokenizer(name = 'default'): GgufPreTokenizer {
  const found = known.find((candidate) => candidate.names.includes(name))
  if (found !== undefined) return found
  throw new UserError(`The GGUF file's pre-tokenizer "${name}" (tokenizer.ggml.pre) is not supported`, {
    fix: `Use the model's Hugging Face folder, or a file with one of: ${known.flatMap(({ names }) => names).join(', ')}.`,
  })
}

/** The name for a `pre_tokenizer` of a tokenizer.json that ends in bytes; undefined where there is none. */
export function ggufPreTokenizerName(json: unknown): string | undefined {
  const patterns = patternsOf(json)
  const same = (candidate: GgufPreTokenizer) => candidate.patterns.join('\n') === patterns?.join('\n')
  return known.find(same)?.names.at(patterns?.[0] === gpt2Pattern ? 1 : 0)
}

interface PreTokenizerJson {
  type?: string
  pretokenizers?: unknown[]
  pattern?: { Regex?: string }
  behavior?: string
  use_regex?: boolean
  individual_digits?: boolean
}

function patternsOf(json: unknown): string[] | undefined {
  const {
    type,
    pretokenizers = [],
    pattern,
    behavior,
    use_regex: usesRegex,
  } = (json ?? {}) as PreTokenizerJson
  if (type === 'ByteLevel') return usesRegex === false ? [] : [gpt2Pattern]
  if (type === 'Split')
    return behavior === 'Isolated' && pattern?.Regex !== undefined ? [pattern.Regex] : undefined
  if (type !== 'Sequence') return undefined
  const last = pretokenizers.at(-1) as PreTokenizerJson | undefined
  if (last?.type !== 'ByteLevel') return undefined
  const parts = pretokenizers.map(patternsOf)
  return parts.includes(undefined) ? undefined : parts.flatMap((part) => part!)
}
