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
import { HarmonyReader, harmonyTokens, openAnswer, speaksHarmony } from './harmony.ts'
import { checkRoom, roomBehind } from './prompts.ts'
import { queueHeaders } from './queue-report.ts'
import { heldFormat } from './response-format.ts'
import { ShownStops } from './shown-stops.ts'
import {
  AnswerCalls,
  type CalledPiece,
  CallReader,
  callFormsOf,
  markTokens,
  type NumberedCall,
} from './tool-calls.ts'
import { callConstraint, formatInChannels, mayCall, namedFunction } from './tool-choice.ts'
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
    const prompt = await encodeMessages(body, endpoint)
    const fresh = await generationParts(body, prompt, { tenant, adapter }, endpoint)
    const parts = fresh.map((part, index) => continued(part, unread(continuations?.[index], endpoint), 0))
    const call = callOf(exchange, endpoint.isGateway)
    const request = { exchange, promptField: 'messages', choices, tenant, model: body.model, call }
    const generations = new Generations(parts, request, endpoint)
    await generations.start()
    const id = `chatcmpl-${randomUUID()}`
    const created = Math.floor(endpoint.clock.unixMs() / 1000)
    const calls = answerCalls(body, parts, continuations, endpoint)
    const answer = { id, created, calls }
    if (body.stream === true) return answerInChunks(exchange, generations, body, answer, endpoint)
    await answerAtOnce(exchange, generations, body, answer, endpoint)
  }
}

/** Where an answer is read in channels, what was shown of it is not what was written. */
function unread<Earlier extends { characters: number }>(
  continuation: Earlier | null | undefined,
  { template }: Endpoint,
): Earlier | null | undefined {
  const isRead = continuation != null && template !== undefined && speaksHarmony(template)
  return isRead ? { ...continuation, characters: 0 } : continuation
}

interface Answer {
  id: string
  created: number
  /** For each choice, where there are tools to call. */
  calls: readonly AnswerCalls[] | undefined
}

function answerCalls(
  body: ChatRequest,
  parts: readonly GenerationParts[],
  continuations: ReturnType<typeof continuationsOf>,
  { template }: Endpoint,
): readonly AnswerCalls[] | undefined {
  if (template === undefined) return undefined
  const forms = callFormsOf(template)
  if (forms.includes('channels'))
    return parts.map(({ earlier = '' }, index) => {
      const answer = new AnswerCalls(channelReader(body))
      answer.resume(earlier, continuations?.[index]?.characters ?? 0)
      return answer
    })
  if (!mayCall(body)) return undefined
  const names = body.tools!.map((tool) => tool.function.name)
  return Array.from({ length: body.n ?? 1 }, (_, index) => {
    const hasBegun = (continuations?.[index]?.characters ?? 0) > 0
    return new AnswerCalls(new CallReader(forms, names, hasBegun), forms.includes('listed'))
  })
}

function channelReader(body: ChatRequest): HarmonyReader {
  const opened = goesOnBehindText(body) ? openAnswer(String(body.messages.at(-1)!.content)).opened : undefined
  return new HarmonyReader(mayCall(body), opened)
}

async function answerAtOnce(
  exchange: Exchange,
  generations: Generations,
  body: ChatRequest,
  { id, created, calls }: Answer,
  { tokenTexts }: Endpoint,
): Promise<void> {
  const choices = Array.from({ length: body.n ?? 1 }, (_, index): ChatCompletion['choices'][number] => ({
    index,
    message: { role: 'assistant', content: '', refusal: null },
    logprobs: body.logprobs === true ? { content: [], refusal: null } : null,
    finish_reason: 'stop',
  }))
  for await (const whole of generations.pieces()) {
    const choice = choices[whole.index]!
    const found = calls?.[whole.index]
    const piece = found === undefined ? whole : found.read(whole)
    if (piece === undefined) continue
    choice.message.content += piece.text
    choice.logprobs?.content.push(...tokenTexts.forChat(piece.tokens).content)
    for (const { index: _, ...call } of callsOf(piece)) (choice.message.tool_calls ??= []).push(call)
    if (piece.finish !== undefined) choice.finish_reason = finishReason(piece.finish, found, body)
  }
  // As OpenAI says it: an answer of calls alone has no content.
  for (const { message } of choices)
    if (message.tool_calls !== undefined && message.content === '') message.content = null
  if (exchange.signal.aborted) return
  const answer: ChatCompletion = {
    ...{ id, created },
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
  { id, created, calls }: Answer,
  endpoint: Endpoint,
): Promise<void> {
  const { tokenTexts } = endpoint
  const withUsage = streamsUsage(body)
  const around = (choices: ChatChunk['choices']): ChatChunk => ({
    ...{ id, created },
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
        delta: {
          ...(piece.text !== '' && { content: piece.text }),
          ...(callsOf(piece).length > 0 && { tool_calls: [...callsOf(piece)] }),
        },
        logprobs: body.logprobs === true && piece.tokens.length > 0 ? tokenTexts.forChat(piece.tokens) : null,
        finish_reason:
          piece.finish === undefined ? null : finishReason(piece.finish, calls?.[piece.index], body),
      },
    ])
  const read = (piece: Piece) => calls![piece.index]!.read(piece)
  const usage = () => ({ ...around([]), usage: generations.usage(body.explain) })
  const wording = { opening, chunk, ...(calls && { read }), ...(withUsage && { usage }) }
  await stream(exchange, generations, wording, endpoint)
}

function callsOf(piece: Piece | CalledPiece): readonly NumberedCall[] {
  return 'calls' in piece ? piece.calls : []
}

/**
 * Calls that were cut off by the limit are text, and what is whole before them does not hide that. A call that was
 * asked for by name is no decision of the model's: OpenAI says stop.
 */
function finishReason(reason: 'stop' | 'length', calls: AnswerCalls | undefined, body: ChatRequest) {
  const hasChosen = calls?.hasCalls === true && namedFunction(body) === undefined
  return reason === 'stop' && hasChosen ? 'tool_calls' : reason
}

async function encodeMessages(body: ChatRequest, endpoint: Endpoint): Promise<readonly number[]> {
  const { encoder, engine, template, spellings } = endpoint
  const { info } = engine
  const { text, plainAt } = chatPrompt(body, template, spellings, (rendered) =>
    encoder.checkLength(rendered, info, 'messages'),
  )
  // The text of a template, which writes its special tokens itself.
  const options = { addSpecial: false, ...(plainAt !== undefined && { plainAt }) }
  return await encoder.encode(text, info, { field: 'messages', options })
}

function goesOnBehindText({ continue_final_message, messages }: ChatRequest): boolean {
  return continue_final_message === true && (messages.at(-1)!.content ?? '') !== ''
}

async function generationParts(
  body: ChatRequest,
  prompt: readonly number[],
  asker: Asker,
  endpoint: Endpoint,
): Promise<readonly GenerationParts[]> {
  const { info } = endpoint.engine
  const { tokenizer, template, checks } = endpoint
  const inChannels = template !== undefined && speaksHarmony(template)
  const base = await requestBase(body, { ...endpoint, ...asker, vocabularySize: info.vocabularySize })
  const constraint = template && (await callConstraint(body, template, tokenizer, checks))
  const format = heldFormat(body)
  if (constraint !== undefined) base.constraint = constraint
  else if (inChannels && format !== undefined)
    base.constraint = { kind: 'text', pattern: formatInChannels(format, tokenizer) }
  if (body.logprobs === true) base.logprobs = body.top_logprobs ?? 0
  const room = roomBehind(prompt.length, info, 'messages')
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? room
  checkRoom(prompt.length, maxTokens, info, 'messages')
  const marks = mayCall(body) ? markTokens(tokenizer) : undefined
  const kept = inChannels ? harmonyTokens(tokenizer) : marks
  const stops = stopStrings(body)
  return Array.from({ length: body.n ?? 1 }, (_, index) => {
    const looked = inChannels && stops.length > 0 ? new ShownStops(stops, channelReader(body)) : stops
    const transcript = new Transcript(tokenizer, looked, base.minTokens, kept)
    if (goesOnBehindText(body)) transcript.continueBehind(prompt)
    const sampling = { ...base.sampling, seed: seedOfChoice(base.sampling.seed, index) }
    return {
      index,
      request: { ...base, id: randomUUID(), prompt, maxTokens, sampling },
      transcript,
      promptOnly: false,
    }
  })
}
