import { randomInt } from 'node:crypto'
import type { Exchange } from '../../http/exchange.ts'
import { Problem } from '../../http/problem.ts'
import { PrefixAffinity } from './affinity.ts'
import type { AnswerRecord } from './answer-record.ts'
import type { Caller } from './keys.ts'
import type { Bill } from './ledger.ts'
import type { Deployment, Target, Version } from './replicas.ts'
import type { PromptShape } from './roster.ts'
import { noTokens, type Tokens } from './usage-sums.ts'

export type Body = Readonly<Record<string, unknown>>

/** One request of a client, as it is sent to whichever replica answers it. */
export interface Call {
  /** The same for every replica that is asked; clients may give exchanges the same id, and this is ours alone. */
  readonly id: string
  readonly exchange: Exchange
  readonly path: '/v1/completions' | '/v1/chat/completions' | '/v1/embeddings'
  readonly deployment: Deployment
  readonly version: Version
  readonly caller: Caller
  readonly bill: Bill
  /** What it uses at most, as far as is known before it is answered. */
  readonly most: Tokens
  readonly arrivedMs: number
  /** What the client reads as `model`: what it asked for, or the version that this means. */
  readonly named: string
  /** What a replica has to load before it is asked. */
  readonly adapter?: string
  /** What the client sent. */
  readonly given: Body
  /** What the replica gets. */
  readonly body: Body
  /** Fills as the answer goes out, where somebody wants to have it. */
  readonly record?: AnswerRecord
  readonly streams: boolean
  /** Whether the client itself asked for usage in its stream. */
  readonly wantsUsage: boolean
  /** How many choices the answer has in all. */
  readonly choices: number
  readonly prompt: PromptShape
}

/** The body as an object with a model, or the {@link Problem} that says what it lacks. */
export function checkedBody(value: unknown): Body & { model: string } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Problem(400, 'invalid_value', 'The body is a JSON object.')
  }
  const { model } = value as Body
  if (typeof model !== 'string' || model === '') {
    throw new Problem(400, 'invalid_value', 'model: Expected the name of a deployment.', { param: 'model' })
  }
  // It speaks for us to replicas and is not for clients.
  if ('ropeway_continue' in value) {
    throw new Problem(400, 'unknown_parameter', 'ropeway_continue: Unknown field.', {
      param: 'ropeway_continue',
    })
  }
  return value as Body & { model: string }
}

/**
 * What is sent to a replica for a client's body: the replica's name of the model, the deployment's defaults,
 * usage at the end of every stream, and a seed, so that another replica can compute the same answer.
 */
export function bodyFor(
  path: Call['path'],
  body: Body,
  { deployment, adapter }: Target,
  version: Version,
): Body {
  const given = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))
  const model = adapter === undefined ? version.model : version.adapters[adapter]
  // Nothing is sampled for embeddings, and nothing streamed.
  if (path === '/v1/embeddings') return { ...given, model }
  const sent: Record<string, unknown> = { ...deployment.defaults, ...given, model }
  sent.seed ??= randomInt(2 ** 47)
  const options = sent.stream_options ?? {}
  if (sent.stream === true && typeof options === 'object') {
    sent.stream_options = { ...options, include_usage: true }
  }
  return sent
}

export function wantsUsage(body: Body): boolean {
  const options = body.stream_options as { include_usage?: unknown } | null | undefined
  return options?.include_usage === true || body.explain === true
}

/** Prompts times answers, as far as the body says it rightly; a replica refuses what it says wrongly. */
export function choicesOf({ prompt, n }: Body): number {
  const isList = Array.isArray(prompt) && prompt.length > 0 && typeof prompt[0] !== 'number'
  return (isList ? prompt.length : 1) * (typeof n === 'number' ? n : 1)
}

/** What an answer is taken for that no `max_tokens` bounds: its real bound, the model's context, is not known here. */
const unboundedTokens = 2_048
/** Of the prompt, which nobody has cut into tokens yet; texts of all languages have more, or few less. */
const bytesPerToken = 4

/** What a request uses at most, as far as its body (with the deployment's defaults) tells. */
export function mostOf(path: Call['path'], body: Body): Tokens {
  const prompt = promptTokensOf(body.messages ?? body.prompt ?? body.input)
  if (path === '/v1/embeddings') return { ...noTokens, prompt }
  const { max_tokens, max_completion_tokens } = body
  const asked = path === '/v1/chat/completions' ? (max_completion_tokens ?? max_tokens) : (max_tokens ?? 16)
  const each = typeof asked === 'number' && asked >= 0 ? asked : unboundedTokens
  return { ...noTokens, prompt, output: each * Math.max(1, choicesOf(body)) }
}

function promptTokensOf(written: unknown): number {
  if (typeof written === 'string') return Math.ceil(Buffer.byteLength(written) / bytesPerToken)
  if (typeof written === 'number') return 1
  if (Array.isArray(written)) return written.reduce((sum: number, part) => sum + promptTokensOf(part), 0)
  if (typeof written !== 'object' || written === null) return 0
  return Math.ceil(Buffer.byteLength(JSON.stringify(written)) / bytesPerToken)
}

/** Text that is looked at to find where a prompt was computed before. */
const shapeCharactersMax = 20_000

/** `scope`: replicas share computed prefixes within one only. */
export function shapeOf(body: Body, scope: string): PromptShape {
  let text = ''
  let characters = 0
  const add = (piece: string) => {
    characters += piece.length
    if (text.length < shapeCharactersMax) text += piece.slice(0, shapeCharactersMax)
  }
  if (Array.isArray(body.messages)) {
    for (const message of body.messages) {
      const { role, content } = (message ?? {}) as { role?: unknown; content?: unknown }
      add(`${String(role)}\n`)
      add(typeof content === 'string' ? content : (JSON.stringify(content) ?? ''))
    }
  }
  const written = body.prompt ?? body.input
  if (typeof written === 'string') add(written)
  else if (Array.isArray(written)) add(JSON.stringify(written.slice(0, shapeCharactersMax)))
  return { chain: PrefixAffinity.chain(scope, text), characters }
}
