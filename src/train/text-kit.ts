/**
 * The text side of a model in training: tokenizer and chat template, as the files of a model folder that hold
 * them. What is read from a checkpoint later is exactly what was trained with.
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf, UserError } from '../base/errors.ts'
import type { Steps } from '../base/pauses.ts'
import {
  type ChatTemplate,
  chatTemplateFromConfig,
  refuseUnlessTemplate,
} from '../tokenizer/chat-template.ts'
import { fillInSpellings } from '../tokenizer/fill-in.ts'
import { type Tokenizer, tokenizerFromJson } from '../tokenizer/tokenizer.ts'
import { learningByteLevelBpe, type WordCounts } from '../tokenizer/train.ts'
import { characterTokenizer } from './character-tokenizer.ts'
import { chatMlTemplate, chatMlTokens, plainTemplate } from './data/default-templates.ts'

/** Texts by file name. */
type Files = Readonly<Record<string, string>>

export interface TextKit {
  tokenizer: Tokenizer
  template: ChatTemplate | undefined
  /** The file that the template was read from, for messages; undefined for a built-in one. */
  templateFile?: string
  /** What a model folder holds of it. */
  files: Files
  /** SHA-256 of the files. */
  hash: string
}

/** Files of a model folder that belong to its text side. */
export const textFileNames = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'generation_config.json',
  'chat_template.jinja',
] as const

/** Throws UserErrors for files that are no tokenizer or no template. */
export function textKit(files: Files): TextKit {
  const json = (name: (typeof textFileNames)[number]): unknown =>
    files[name] === undefined ? undefined : parsed(files[name], name)
  const config = (json('tokenizer_config.json') ?? {}) as Record<string, unknown>
  const endings = (json('generation_config.json') as { eos_token_id?: unknown } | undefined)?.eos_token_id
  const template = files['chat_template.jinja']
  const hash = createHash('sha256')
  for (const name of textFileNames) hash.update(JSON.stringify([name, files[name] ?? null]))
  return {
    tokenizer: tokenizerFromJson(json('tokenizer.json'), config, numbersOf(endings)),
    template: chatTemplateFromConfig(
      template === undefined ? config : { ...config, chat_template: template },
    ),
    files,
    hash: hash.digest('hex'),
  }
}

function parsed(text: string, name: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new UserError(`${name} is not JSON: ${messageOf(error)}`, { fix: 'Fetch it again.', cause: error })
  }
}

function numbersOf(value: unknown): number[] {
  return [value].flat().filter((item): item is number => typeof item === 'number')
}

/** The kit of a model folder, or of a tokenizer.json alone. */
export function textKitFrom(path: string): TextKit {
  const isFile = existsSync(path) && statSync(path).isFile()
  const pathOf = (name: string) => (isFile && name === 'tokenizer.json' ? path : join(path, name))
  if (isFile && path.endsWith('.gguf')) throw noTokenizer(path)
  const found = textFileNames.filter((name) => existsSync(pathOf(name)))
  if (!found.includes('tokenizer.json')) throw noTokenizer(path)
  const files: Record<string, string> = {}
  for (const name of found) files[name] = readFileSync(pathOf(name), 'utf8')
  const config = join(path, 'config.json')
  if (files['generation_config.json'] === undefined && existsSync(config)) {
    // Older folders name the ending token here only.
    const { eos_token_id } = parsed(readFileSync(config, 'utf8'), config) as { eos_token_id?: unknown }
    if (eos_token_id != null) files['generation_config.json'] = JSON.stringify({ eos_token_id })
  }
  const origin = files['chat_template.jinja'] === undefined ? 'tokenizer_config.json' : 'chat_template.jinja'
  return { ...textKit(files), templateFile: pathOf(origin) }
}

function noTokenizer(path: string): UserError {
  return new UserError(`${path} has no tokenizer.json.`, {
    failure: 'not_found',
    fix: 'Train from a model folder in Hugging Face layout, or name one in the field tokenizer: {from: FOLDER}.',
  })
}

const endOfText = '<|endoftext|>'

/** What a model with a new tokenizer is to learn. */
export interface KitUses {
  chats: boolean
  /** To fill in what stands between two texts. */
  fim: boolean
}

/** The special tokens that it takes. */
export function specialTokensOf({ chats, fim }: KitUses): readonly string[] {
  if (!chats && !fim) return []
  return [endOfText, ...(chats ? chatMlTokens : []), ...(fim ? fillInSpellings : [])]
}

/** A new byte-level BPE, from words that were counted between the same special tokens. */
export function* learningByteLevelKit(
  words: WordCounts,
  vocabularySize: number,
  specialTokens: readonly string[],
): Steps<TextKit> {
  const json = yield* learningByteLevelBpe(words, { vocabularySize, specialTokens })
  return textKit({ 'tokenizer.json': JSON.stringify(json), 'tokenizer_config.json': newConfig })
}

/** Characters, and the special tokens of what it is to be used for. */
export function characterKit(texts: Iterable<string>, uses: KitUses): TextKit {
  const special = specialTokensOf(uses)
  const json = { 'tokenizer.json': JSON.stringify(characterTokenizer(texts, special)) }
  return textKit(special.length === 0 ? json : { ...json, 'tokenizer_config.json': newConfig })
}

const newConfig = JSON.stringify({ eos_token: endOfText, pad_token: endOfText })

/** `chosen` is chatml, plain, none, or the path of a Jinja file; the kit's own template when it is undefined. */
export function withTemplate(kit: TextKit, chosen: string | undefined): TextKit {
  if (chosen === undefined) return kit
  const { 'chat_template.jinja': _, ...files } = kit.files
  if (chosen === 'none')
    return { ...textKit(withConfig(files, { chat_template: undefined })), template: undefined }
  if (chosen === 'chatml') return chatMlKit(kit, files)
  if (chosen === 'plain') return textKit({ ...files, 'chat_template.jinja': plainTemplate })
  return { ...textKit({ ...files, 'chat_template.jinja': readTemplate(chosen) }), templateFile: chosen }
}

function chatMlKit(kit: TextKit, files: Files): TextKit {
  const ids = chatMlTokens.map((text) => kit.tokenizer.idOf(text))
  if (ids.some((id) => id === undefined || !kit.tokenizer.isSpecial(id))) {
    throw new UserError(
      `The template chatml needs the tokens ${chatMlTokens.join(' and ')}, which the tokenizer lacks.`,
      {
        failure: 'usage',
        fix: 'Choose template: plain, which needs none, or a Jinja file made for this tokenizer.',
      },
    )
  }
  const [, end] = ids
  const endings = [end, ...kit.tokenizer.eosTokens.filter((token) => token !== end)]
  return textKit({
    ...withConfig(files, { eos_token: chatMlTokens[1] }),
    'generation_config.json': JSON.stringify({ eos_token_id: endings }),
    'chat_template.jinja': chatMlTemplate,
  })
}

function withConfig(files: Files, changes: Record<string, unknown>): Files {
  const config = JSON.parse(files['tokenizer_config.json'] ?? '{}') as Record<string, unknown>
  return { ...files, 'tokenizer_config.json': JSON.stringify({ ...config, ...changes }) }
}

function readTemplate(path: string): string {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new UserError(`The template ${path} cannot be read: ${messageOf(error)}`, {
      failure: 'not_found',
      fix: 'Name a Jinja file, or one of chatml, plain, none in the field data.template.',
      cause: error,
    })
  }
  refuseUnlessTemplate(text, path)
  return text
}

/** Words that the template itself uses, so that what is lost is the template's. */
const probe = [
  { role: 'user', content: 'user' },
  { role: 'assistant', content: 'assistant' },
]

/** Throws a UserError for a template that writes what the tokenizer does not have. */
export function checkTemplate({ tokenizer, template, templateFile }: TextKit): void {
  if (template === undefined) return
  const refuse = (what: string, fix: string, sought: readonly string[]) => {
    const place = templateFile === undefined ? '' : `${templateFile}:${lineOf(templateFile, sought)}: `
    return new UserError(`${place}the chat template ${what}`, { fix })
  }
  const text = template.render({ messages: probe, addGenerationPrompt: true })
  const unknown = text.match(/<\|[\w-]+\|>/g)?.find((spelt) => tokenizer.idOf(spelt) === undefined)
  if (unknown !== undefined) {
    throw refuse(
      `writes ${unknown}, which is no token of the tokenizer.`,
      'Use the template that belongs to this tokenizer, or data.template: plain.',
      [unknown, '<|'],
    )
  }
  const seen = (value: string) => value.normalize('NFKC').replace(/\s/g, '')
  const lost = [...text].find((character) => !survives(tokenizer, character, seen))
  const back = tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))
  if (seen(back) !== seen(text)) {
    throw refuse(
      'writes what the tokenizer cannot write: characters of it are lost.',
      'Use another tokenizer (byte_pairs knows every character) or another template.',
      lost === undefined ? [] : [lost],
    )
  }
}

function survives(tokenizer: Tokenizer, character: string, seen: (text: string) => string): boolean {
  return seen(tokenizer.decode(tokenizer.encode(character, { addSpecial: false }))) === seen(character)
}

/** The first line of the file that has one of these texts, the first text first. */
function lineOf(file: string, sought: readonly string[]): number {
  const lines = readFileSync(file, 'utf8').split('\n')
  const escaped = (text: string) => JSON.stringify(text).slice(1, -1)
  for (const text of [...sought, 'chat_template']) {
    const line = lines.findIndex((one) => one.includes(text) || one.includes(escaped(text)))
    if (line >= 0) return line + 1
  }
  return 1
}
