import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { messageOf, UserError } from '../base/errors.ts'
import { JsonFields } from './json-fields.ts'

/** Special tokens by role (bos_token, eos_token, ...), as templates name them. */
export type SpecialTokenTexts = Readonly<Record<string, string>>

export interface ChatRendering {
  /** Messages as the OpenAI API writes them. */
  messages: readonly unknown[]
  tools?: readonly unknown[]
  /** End with what opens the assistant's turn. */
  addGenerationPrompt: boolean
  /** Further variables that the template knows, such as enable_thinking. */
  extra?: Readonly<Record<string, unknown>>
  /** Which template of several; without it "tool_use" when there are tools and "default" otherwise. */
  template?: string
}

/** A source, or several by name. */
export type ChatTemplateSource = string | Readonly<Record<string, string>>

/**
 * Turns a conversation into the text that a model was trained on, by the Jinja template that came with it.
 * The special tokens are already in that text: encode it with `addSpecial: false`.
 */
export class ChatTemplate {
  /** The sources by name; an only one is called default. */
  readonly sources: Readonly<Record<string, string>>
  readonly #templates = new Map<string, Template>()
  readonly #special: SpecialTokenTexts

  /** Throws UserError when a source is not a template; it names `place`, the file that it was read from. */
  constructor(source: ChatTemplateSource, special: SpecialTokenTexts = {}, place?: string) {
    this.#special = special
    this.sources = typeof source === 'string' ? { default: source } : source
    for (const [name, text] of Object.entries(this.sources)) this.#templates.set(name, parse(text, place))
    if (this.#templates.size === 0) throw new UserError('The model brings an empty list of chat templates')
  }

  get names(): readonly string[] {
    return [...this.#templates.keys()]
  }

  /** The text. What the template refuses (raise_exception) or cannot do is a UserError. */
  render({ messages, tools, addGenerationPrompt, extra, template }: ChatRendering): string {
    const variables = {
      ...this.#special,
      ...extra,
      messages,
      tools: tools === undefined || tools.length === 0 ? null : tools,
      add_generation_prompt: addGenerationPrompt,
    }
    try {
      return this.#pick(template, variables.tools !== null).render(variables)
    } catch (error) {
      if (error instanceof UserError) throw error
      throw new UserError(`The model's chat template refuses these messages: ${messageOf(error)}`, {
        fix: 'Check the order of roles, the tools and the template variables, or give another chat template.',
        cause: error,
      })
    }
  }

  #pick(name: string | undefined, hasTools: boolean): Template {
    if (name === undefined) {
      const first = (hasTools ? this.#templates.get('tool_use') : undefined) ?? this.#templates.get('default')
      if (first !== undefined) return first
      if (this.#templates.size === 1) return [...this.#templates.values()][0]!
    }
    const found = this.#templates.get(name ?? 'default')
    if (found !== undefined) return found
    throw new UserError(`The model has no chat template "${name ?? 'default'}"`, {
      failure: 'not_found',
      fix: `Name one of: ${this.names.join(', ')}.`,
    })
  }
}

/**
 * A message as templates take it: they know no developer (OpenAI's new name for system) and no absent text, and they
 * write the arguments of a call as JSON themselves, so a text that is JSON already would be quoted once more.
 */
export function templateMessage(message: {
  readonly role: string
  readonly content?: unknown
  readonly tool_calls?: readonly object[] | undefined
}): Record<string, unknown> {
  const role = message.role === 'developer' ? 'system' : message.role
  const { tool_calls: calls, ...rest } = message
  return {
    ...rest,
    ...{ role, content: message.content ?? '' },
    ...(calls !== undefined && { tool_calls: calls.map(callWithObject) }),
  }
}

function callWithObject(call: object): object {
  const given = 'function' in call ? (call.function as { arguments?: unknown }) : undefined
  if (typeof given?.arguments !== 'string') return call
  try {
    const value: unknown = JSON.parse(given.arguments)
    const isObject = typeof value === 'object' && value !== null
    return isObject ? { ...call, function: { ...given, arguments: value } } : call
  } catch (error) {
    if (error instanceof SyntaxError) return call
    throw error
  }
}

/** transformers marks what a model says by {% generation %}; the mark writes nothing and Jinja does not know it. */
const generationMarks = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g

/** Throws UserError when `source` is not a template; it names `place`, the file that it was read from. */
export function refuseUnlessTemplate(source: string, place: string): void {
  parse(source, place)
}

function parse(source: string, place: string | undefined): Template {
  const where = place === undefined ? '' : ` in ${place}`
  try {
    return new Template(
      source.replace(generationMarks, (_, left: string, end: string | undefined, right: string) =>
        end === undefined ? `{%${left} if true ${right}%}` : `{%${left} endif ${right}%}`,
      ),
    )
  } catch (error) {
    throw new UserError(`The chat template${where} is not valid Jinja: ${messageOf(error)}`, {
      fix: 'Give another template, or correct this one.',
      cause: error,
    })
  }
}

/**
 * The chat template of a Hugging Face model folder, or undefined when it has none: chat_template.jinja (and
 * additional_chat_templates/NAME.jinja), or else `chat_template` of tokenizer_config.json.
 */
export function chatTemplateFromFolder(folder: string): ChatTemplate | undefined {
  const path = join(folder, 'tokenizer_config.json')
  let config: unknown = {}
  try {
    if (existsSync(path)) config = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, {
      fix: 'Fetch it again.',
      cause: error,
    })
  }
  const files = templateFiles(folder)
  if (files === undefined) return chatTemplateFromConfig(config)
  return new ChatTemplate(files, specialTexts(new JsonFields(config, 'tokenizer_config.json')), folder)
}

/** The template in a parsed tokenizer_config.json: a text, or a list of {name, template}. */
export function chatTemplateFromConfig(config: unknown): ChatTemplate | undefined {
  const fields = new JsonFields(config, 'tokenizer_config.json')
  const value = fields.raw('chat_template')
  if (value === undefined) return undefined
  if (!Array.isArray(value)) return new ChatTemplate(fields.string('chat_template'), specialTexts(fields))
  const named = fields.fieldsList('chat_template')
  return new ChatTemplate(
    Object.fromEntries(named.map((entry) => [entry.string('name'), entry.string('template')])),
    specialTexts(fields),
  )
}

/** The template in a GGUF file's metadata: tokenizer.chat_template, further ones at tokenizer.chat_template.NAME. */
export function chatTemplateFromGguf(metadata: ReadonlyMap<string, unknown>): ChatTemplate | undefined {
  const key = 'tokenizer.chat_template'
  const sources: Record<string, string> = {}
  for (const [name, value] of metadata) {
    if (typeof value !== 'string') continue
    if (name === key) sources.default = value
    else if (name.startsWith(`${key}.`)) sources[name.slice(key.length + 1)] = value
  }
  if (Object.keys(sources).length === 0) return undefined
  const pieces = metadata.get('tokenizer.ggml.tokens')
  const special: Record<string, string> = {}
  for (const [role, field] of ggufRoles) {
    const piece = Array.isArray(pieces)
      ? pieces[Number(metadata.get(`tokenizer.ggml.${field}`) ?? -1)]
      : undefined
    if (typeof piece === 'string') special[role] = piece
  }
  return new ChatTemplate(sources, special)
}

const ggufRoles = [
  ['bos_token', 'bos_token_id'],
  ['eos_token', 'eos_token_id'],
  ['unk_token', 'unknown_token_id'],
  ['pad_token', 'padding_token_id'],
] as const

/** Every field NAME_token of a tokenizer_config.json, as text. */
function specialTexts(config: JsonFields): SpecialTokenTexts {
  const texts: Record<string, string> = {}
  for (const name of config.names()) {
    const value = config.raw(name)
    if (!name.endsWith('_token') || value === undefined || typeof value === 'boolean') continue
    texts[name] = typeof value === 'string' ? value : config.fields(name).string('content')
  }
  return texts
}

function templateFiles(folder: string): Record<string, string> | undefined {
  const sources: Record<string, string> = {}
  const main = join(folder, 'chat_template.jinja')
  if (existsSync(main)) sources.default = readFileSync(main, 'utf8')
  const more = join(folder, 'additional_chat_templates')
  for (const name of existsSync(more) ? readdirSync(more).sort() : [])
    if (name.endsWith('.jinja')) sources[basename(name, '.jinja')] = readFileSync(join(more, name), 'utf8')
  return Object.keys(sources).length === 0 ? undefined : sources
}
