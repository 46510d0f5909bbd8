import { randomUUID } from 'node:crypto'
import {
  type Completion,
  type CompletionChoice,
  type CompletionLogprobs,
  type CompletionRequest,
  completionRequest,
} from '../api/completions.ts'
import type { Handler } from '../http/router.ts'
import type { TokenLogprob } from '../serve/request.ts'
import { TextStream } from '../tokenizer/stream.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { callOf } from './calls.ts'
import { continuationsOf, continued } from './continuation.ts'
import { checkSequences, type Endpoint, findModel, parseBody, stream, streamsUsage } from './endpoint.ts'
import { type Asker, requestBase, seedOfChoice, stopStrings } from './engine-request.ts'
import { encodeGaps, gapEnds } from './fill-in.ts'
import type { GenerationParts, Piece } from './generation.ts'
import { Generations } from './generations.ts'
import { checkRoom, type EncodedPrompt, encodePrompts, roomBehind } from './prompts.ts'
import { queueHeaders } from './queue-report.ts'
import type { TokenTexts } from './token-text.ts'
import { codePoints, Transcript } from './transcript.ts'

/** What OpenAI generates when max_tokens is absent. */
const defaultMaxTokens = 16

/** POST /v1/completions */
export function completions(endpoint: Endpoint): Handler {
  const schema = completionRequest(endpoint.limits)
  return async (exchange, tenant) => {
    const body = await parseBody(exchange, schema, endpoint.limits)
    const { adapter } = findModel(endpoint, body.model)
    checkSequences(body.prompt.length, body.n ?? 1, endpoint.limits)
    const { suffix } = body
    const prompts =
      suffix === undefined
        ? await encodePrompts(body.prompt, endpoint, { field: 'prompt' })
        : await encodeGaps(body.prompt, suffix, endpoint)
    const continuations = continuationsOf(body, exchange, endpoint)
    const fresh = await generationParts(body, prompts, { tenant, adapter }, endpoint)
    const parts = fresh.map((part, index) => {
      const echoed = body.echo === true ? prompts[Math.floor(index / (body.n ?? 1))]!.text.length : 0
      return continued(part, continuations?.[index], echoed)
    })
    const call = callOf(exchange, endpoint.isGateway)
    const request = { exchange, promptField: 'prompt', choices: body.n ?? 1, tenant, model: body.model, call }
    const generations = new Generations(parts, request, endpoint)
    await generations.start()
    const writers = parts.map(({ index }) => {
      const prompt = prompts[Math.floor(index / (body.n ?? 1))]!
      const isContinued = continuations?.[index] != null
      return new ChoiceWriter(index, body.echo === true ? prompt : undefined, isContinued, body, endpoint)
    })
    const envelope = new Envelope(generations.adapter ?? body.model, endpoint.clock.unixMs())
    if (body.stream !== true) {
      for await (const piece of generations.pieces()) writers[piece.index]!.add(piece)
      if (exchange.signal.aborted) return
      const choices = writers.map((writer) => writer.take())
      const answer = { ...envelope.around(choices), usage: generations.usage(body.explain) }
      return exchange.json(200, answer, queueHeaders(exchange, generations.queue))
    }
    const withUsage = streamsUsage(body)
    const noUsage = withUsage ? { usage: null } : {}
    const chunk = (piece: Piece) => {
      const writer = writers[piece.index]!
      writer.add(piece)
      return { ...envelope.around([writer.take()]), ...noUsage }
    }
    const usage = () => ({ ...envelope.around([]), usage: generations.usage(body.explain) })
    const wording = { opening: [], chunk, ...(withUsage ? { usage } : {}) }
    await stream(exchange, generations, wording, endpoint)
  }
}

async function generationParts(
  body: CompletionRequest,
  prompts: readonly EncodedPrompt[],
  asker: Asker,
  endpoint: Endpoint,
): Promise<readonly GenerationParts[]> {
  const { info } = endpoint.engine
  const ends = body.suffix === undefined ? [] : gapEnds(endpoint)
  const endTokens = [...endpoint.endTokens, ...ends]
  const base = await requestBase(body, {
    ...endpoint,
    ...asker,
    endTokens,
    vocabularySize: info.vocabularySize,
  })
  if (body.logprobs !== undefined) base.logprobs = body.logprobs
  if (body.logprobs !== undefined && body.echo === true) base.promptLogprobs = true
  const choices = body.n ?? 1
  return prompts.flatMap(({ tokens }, promptIndex) => {
    const room = roomBehind(tokens.length, info, 'prompt')
    const maxTokens = body.max_tokens ?? Math.min(defaultMaxTokens, room)
    checkRoom(tokens.length, maxTokens, info, 'prompt')
    return Array.from({ length: choices }, (_, choice) => {
      const transcript = new Transcript(endpoint.tokenizer, stopStrings(body), base.minTokens)
      transcript.continueBehind(tokens)
      const sampling = { ...base.sampling, seed: seedOfChoice(base.sampling.seed, choice) }
      return {
        index: promptIndex * choices + choice,
        request: { ...base, id: randomUUID(), prompt: tokens, maxTokens: Math.max(1, maxTokens), sampling },
        transcript,
        promptOnly: maxTokens === 0,
      }
    })
  })
}

class Envelope {
  readonly #fields: Omit<Completion, 'choices'>

  constructor(model: string, unixMs: number) {
    const created = Math.floor(unixMs / 1000)
    this.#fields = { id: `cmpl-${randomUUID()}`, object: 'text_completion', created, model }
  }

  around(choices: CompletionChoice[]): Completion {
    return { ...this.#fields, choices }
  }
}

/** Gathers one choice's pieces: all of them for an answer, one at a time for a stream. */
class ChoiceWriter {
  readonly #index: number
  readonly #tokenTexts: TokenTexts
  readonly #wantsLogprobs: boolean
  readonly #echo: PromptEcho | undefined
  /** Where the completion begins in the choice's text, in code points. */
  readonly #textOffset: number
  #choice: CompletionChoice

  constructor(
    index: number,
    echo: EncodedPrompt | undefined,
    isContinued: boolean,
    body: CompletionRequest,
    { tokenTexts, tokenizer }: Endpoint,
  ) {
    this.#index = index
    this.#tokenTexts = tokenTexts
    this.#wantsLogprobs = body.logprobs !== undefined
    this.#echo = echo === undefined ? undefined : new PromptEcho(echo.tokens, tokenizer, tokenTexts)
    this.#textOffset = echo === undefined ? 0 : codePoints(echo.text)
    // What goes on behind a text that began elsewhere has shown its prompt there.
    this.#choice = this.#empty(isContinued ? '' : (echo?.text ?? ''))
  }

  add(piece: Piece): void {
    const choice = this.#choice
    choice.text += piece.text
    if (piece.finish !== undefined) choice.finish_reason = piece.finish
    if (choice.logprobs === null) return
    for (const logprob of piece.prompt) this.#echo?.add(choice.logprobs, logprob)
    for (const { logprob, offset } of piece.tokens) {
      this.#tokenTexts.addToCompletion(choice.logprobs, logprob.token, logprob, this.#textOffset + offset)
    }
  }

  /** What was gathered since the last call. */
  take(): CompletionChoice {
    const choice = this.#choice
    this.#choice = this.#empty('')
    return choice
  }

  #empty(text: string): CompletionChoice {
    const logprobs: CompletionLogprobs | null = this.#wantsLogprobs
      ? { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
      : null
    return { index: this.#index, text, logprobs, finish_reason: null }
  }
}

/** Walks a prompt's tokens as the engine reports them, to say where each begins in the prompt's text. */
class PromptEcho {
  readonly #tokens: readonly number[]
  readonly #stream: TextStream
  readonly #tokenTexts: TokenTexts
  #next = 0
  #offset = 0

  constructor(tokens: readonly number[], tokenizer: Tokenizer, tokenTexts: TokenTexts) {
    this.#tokens = tokens
    this.#stream = new TextStream(tokenizer)
    this.#tokenTexts = tokenTexts
  }

  add(out: CompletionLogprobs, logprob: TokenLogprob | null): void {
    const token = this.#tokens[this.#next++]!
    this.#tokenTexts.addToCompletion(out, token, logprob, this.#offset)
    this.#offset += codePoints(this.#stream.push(token))
  }
}
