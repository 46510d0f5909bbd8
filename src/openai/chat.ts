import { randomUUID } from 'node:crypto'
import { type ChatChunk, type ChatCompletion, type ChatRequest, chatRequest } from '../api/chat.ts'
import type { Exchange } from '../http/exchange.ts'
import type { Handler } from '../http/router.ts'
import { callOf } from './calls.ts'
import { chatPrompt } from './chat-prompt.ts'
import { continuationsOf, continued } from './continuation.ts'
import { checkSequences, type Endpoint, findModel, parseBody, stream, streamsUsage } from './endpoint.ts'
import { type Asker, requestBase, seedOfChoice, stopStrings } from './engine-request.ts'
import type { GenerationParts, Piece } from './generation.ts'
import { Generations } from './generations.ts'
import { checkRoom, roomBehind } from './prompts.ts'
import { queueHeaders } from './queue-report.ts'
import { Transcript } from './transcript.ts'

/** POST /v1/chat/completions */
export function chat(endpoint: Endpoint): Handler {
  const schema = chatRequest(endpoint.limits)
  return async (exchange, tenant) => {
    const body = await parseBody(exchange, schema, endpoint.limits)
    const { adapter } = findModel(endpoint, body.model)
    const choices = body.n ?? 1
    checkSequences(1, choices, endpoint.limits)
    const continuations = continuationsOf(body, exchange, endpoint)
    const parts = generationParts(
      body,
      await encodeMessages(body, endpoint),
      { tenant, adapter },
      endpoint,
    ).map((part, index) => continued(part, continuations?.[index], 0))
    const call = callOf(exchange, endpoint.isGateway)
    const request = { exchange, promptField: 'messages', choices, tenant, model: body.model, call }
    const generations = new Generations(parts, request, endpoint)
    await generations.start()
    const id = `chatcmpl-${randomUUID()}`
    const created = Math.floor(endpoint.clock.unixMs() / 1000)
    if (body.stream === true) return answerInChunks(exchange, generations, body, { id, created }, endpoint)
    await answerAtOnce(exchange, generations, body, { id, created }, endpoint)
  }
}

interface Identity {
  id: string
  created: number
}

async function answerAtOnce(
  exchange: Exchange,
  generations: Generations,
  body: ChatRequest,
  identity: Identity,
  { tokenTexts }: Endpoint,
): Promise<void> {
  const choices = Array.from({ length: body.n ?? 1 }, (_, index): ChatCompletion['choices'][number] => ({
    index,
    message: { role: 'assistant', content: '', refusal: null },
    logprobs: body.logprobs === true ? { content: [], refusal: null } : null,
    finish_reason: 'stop',
  }))
  for await (const piece of generations.pieces()) {
    const choice = choices[piece.index]!
    choice.message.content += piece.text
    choice.logprobs?.content.push(...tokenTexts.forChat(piece.tokens).content)
    if (piece.finish !== undefined) choice.finish_reason = piece.finish
  }
  if (exchange.signal.aborted) return
  const answer: ChatCompletion = {
    ...identity,
    object: 'chat.completion',
    model: generations.adapter ?? body.model,
    choices,
    usage: generations.usage(body.explain),
  }
  exchange.json(200, answer, queueHeaders(exchange, generations.queue))
}

async function answerInChunks(
  exchange: Exchange,
  generations: Generations,
  body: ChatRequest,
  identity: Identity,
  endpoint: Endpoint,
): Promise<void> {
  const { tokenTexts } = endpoint
  const withUsage = streamsUsage(body)
  const around = (choices: ChatChunk['choices']): ChatChunk => ({
    ...identity,
    object: 'chat.completion.chunk',
    model: generations.adapter ?? body.model,
    choices,
    ...(withUsage ? { usage: null } : {}),
  })
  const opening = Array.from({ length: body.n ?? 1 }, (_, index) =>
    around([{ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }]),
  )
  const chunk = (piece: Piece) =>
    around([
      {
        index: piece.index,
        delta: piece.text === '' ? {} : { content: piece.text },
        logprobs: body.logprobs === true && piece.tokens.length > 0 ? tokenTexts.forChat(piece.tokens) : null,
        finish_reason: piece.finish ?? null,
      },
    ])
  const usage = () => ({ ...around([]), usage: generations.usage(body.explain) })
  await stream(exchange, generations, { opening, chunk, ...(withUsage ? { usage } : {}) }, endpoint)
}

async function encodeMessages(body: ChatRequest, endpoint: Endpoint): Promise<readonly number[]> {
  const { encoder, engine, template, spellings } = endpoint
  const prompt = chatPrompt(body, template, spellings)
  return await encoder.encode(prompt.text, engine.info, { field: 'messages', templated: true, ...prompt })
}

function generationParts(
  body: ChatRequest,
  prompt: readonly number[],
  asker: Asker,
  endpoint: Endpoint,
): readonly GenerationParts[] {
  const { info } = endpoint.engine
  const base = requestBase(body, { ...endpoint, ...asker, vocabularySize: info.vocabularySize })
  if (body.logprobs === true) base.logprobs = body.top_logprobs ?? 0
  const room = roomBehind(prompt.length, info, 'messages')
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? room
  checkRoom(prompt.length, maxTokens, info, 'messages')
  return Array.from({ length: body.n ?? 1 }, (_, index) => ({
    index,
    request: {
      ...base,
      id: randomUUID(),
      prompt,
      maxTokens,
      sampling: { ...base.sampling, seed: seedOfChoice(base.sampling.seed, index) },
    },
    transcript: new Transcript(endpoint.tokenizer, stopStrings(body), base.minTokens),
    promptOnly: false,
  }))
}
