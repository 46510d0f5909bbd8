import type { z } from 'zod'
import type { GenerationFields } from '../api/fields.ts'
import { firstIssue } from '../api/issues.ts'
import type { RequestLimits } from '../api/limits.ts'
import { readJson } from '../http/body.ts'
import { EventStream } from '../http/events.ts'
import type { Exchange } from '../http/exchange.ts'
import type { HttpLimits } from '../http/limits.ts'
import { Problem } from '../http/problem.ts'
import type { Pooling } from '../serve/request.ts'
import type { ChatTemplate } from '../tokenizer/chat-template.ts'
import type { SpecialSpellings } from '../tokenizer/special-spellings.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ConstraintChecks } from './constraint-checks.ts'
import type { GenerationDefaults } from './engine-request.ts'
import type { Piece } from './generation.ts'
import type { GenerationHost, Generations } from './generations.ts'
import type { PromptEncoder } from './prompts.ts'
import { type QueueReport, queueHeaders, reportQueue, wantsQueue } from './queue-report.ts'
import type { TokenTexts } from './token-text.ts'

export interface OpenAiLimits extends HttpLimits, RequestLimits {
  /** Longest wait for the engine's gauges in a scrape. */
  gaugesMs: number
  /** A waiting stream hears of its place in the queue so often at most. */
  queueReportMs: number
  /** Long prompts that may be on their way to tokens; further ones are refused with 429. */
  encodingsMax: number
  /** Schemas of which it is being found out whether they can be kept; further ones are refused with 429. */
  checksMax: number
}

/** A name under which the engine's model is served. */
export interface ServedModel {
  id: string
  /** Seconds since 1970. */
  created: number
}

/** What the handlers of one engine share. */
export interface Endpoint extends GenerationHost {
  tokenizer: Tokenizer
  template: ChatTemplate | undefined
  encoder: PromptEncoder
  checks: ConstraintChecks
  spellings: SpecialSpellings
  tokenTexts: TokenTexts
  models: readonly ServedModel[]
  defaults: GenerationDefaults
  endTokens: readonly number[]
  /** How embeddings are made of a prompt's states. */
  pooling: Pooling
  limits: OpenAiLimits
  /** Whether a gateway asks, which may see and say more than its clients. */
  isGateway: (exchange: Exchange) => boolean
}

/** The body as `schema` reads it, or the {@link Problem} that names the first field that is wrong. */
export async function parseBody<Schema extends z.ZodType>(
  exchange: Exchange,
  schema: Schema,
  limits: HttpLimits,
): Promise<z.output<Schema>> {
  const given = exchange.asked?.body ?? (await readJson(exchange.request, limits))
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  const { param, message, code } = firstIssue(parsed.error, schema)
  throw new Problem(400, code, param === undefined ? message : `${param}: ${message}`, { param })
}

/** What answers to a name: the model, or one of its adapters, also as `model:adapter`. */
export function findModel(
  { models, engine }: Pick<Endpoint, 'models' | 'engine'>,
  id: string,
): ServedModel & { adapter?: string } {
  const model = models.find((candidate) => candidate.id === id)
  if (model !== undefined) return model
  const base = models.find((candidate) => id.startsWith(`${candidate.id}:`)) ?? models[0]
  const adapter = base !== undefined && id.startsWith(`${base.id}:`) ? id.slice(base.id.length + 1) : id
  if (base !== undefined && engine.adapters?.resolve(adapter) !== undefined)
    return { id, created: base.created, adapter }
  const message = `There is no model '${id.slice(0, 100)}' here; GET /v1/models lists those there are.`
  throw new Problem(404, 'model_not_found', message, { param: 'model' })
}

export function checkSequences(prompts: number, choices: number, limits: RequestLimits): void {
  if (prompts * choices <= limits.sequencesMax) return
  const message = `${prompts} prompts times ${choices} choices exceed ${limits.sequencesMax} in one request.`
  throw new Problem(400, 'invalid_value', message, { param: 'n' })
}

/** Whether a stream ends with a chunk of usage; an explanation has no other place to stand. */
export function streamsUsage(body: GenerationFields): boolean {
  return body.stream_options?.include_usage === true || body.explain === true
}

/** How one endpoint words its stream. */
export interface StreamWording {
  /** Sent once all generations are taken, before any text. */
  opening: readonly unknown[]
  /** What there is to say of a piece; undefined when nothing yet. */
  read?(piece: Piece): Piece | undefined
  chunk(piece: Piece): { choices: readonly object[] }
  /** The chunk behind the last one, when usage was asked for. */
  usage?: () => unknown
}

/** Streams generations that were started: a chunk for each piece, then usage, then `[DONE]`; or an error. */
export async function stream(
  exchange: Exchange,
  generations: Generations,
  wording: StreamWording,
  { limits, isGateway }: Endpoint,
): Promise<void> {
  const forGateway = isGateway(exchange)
  const headers = {
    ...queueHeaders(exchange, generations.queue),
    ...(forGateway && promptHeader(generations)),
  }
  const events = new EventStream(exchange, limits, headers)
  const stopReporting = wantsQueue(exchange)
    ? reportQueue(queueReport(events, generations), limits.queueReportMs)
    : undefined
  try {
    for (const chunk of wording.opening) events.send(chunk)
    for await (const whole of generations.pieces()) {
      const piece = wording.read === undefined ? whole : wording.read(whole)
      if (piece === undefined) continue
      const chunk = wording.chunk(piece)
      events.send(forGateway ? withTokens(chunk, piece) : chunk)
    }
    if (exchange.signal.aborted) return
    if (wording.usage !== undefined) events.send(wording.usage())
    events.done()
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    events.fail(error, forGateway ? { usage: generations.usage() } : {})
  } finally {
    stopReporting?.()
  }
}

function queueReport(events: EventStream, generations: Generations): QueueReport {
  return {
    ask: () => generations.queueNow(),
    isOver: () => generations.hasProgress,
    say: (comment) => events.comment(comment),
  }
}

/** The ids behind a chunk's text: with them a gateway can let another server go on. */
function withTokens<Chunk extends { choices: readonly object[] }>(chunk: Chunk, { ids }: Piece): Chunk {
  return { ...chunk, choices: chunk.choices.map((choice) => ({ ...choice, ropeway_tokens: ids })) }
}

/** A gateway bills the prompt of a stream that its client leaves, which gets no usage. */
function promptHeader(generations: Generations): Record<string, string> {
  return { 'x-ropeway-prompt-tokens': String(generations.promptTokens) }
}
