import { randomUUID } from 'node:crypto'
import { type Embedding, type EmbeddingList, embeddingRequest } from '../api/embeddings.ts'
import { assert } from '../base/assert.ts'
import { Problem } from '../http/problem.ts'
import type { Handler } from '../http/router.ts'
import type { EngineRequest, Sampling } from '../serve/request.ts'
import { callOf } from './calls.ts'
import { type Endpoint, findModel, parseBody } from './endpoint.ts'
import type { Asker } from './engine-request.ts'
import type { GenerationParts } from './generation.ts'
import { Generations } from './generations.ts'
import { encodePrompts } from './prompts.ts'
import { Transcript } from './transcript.ts'

/** Nothing is sampled for an embedding. */
const noSampling: Sampling = {
  ...{ temperature: 0, topP: 1, topK: 0, minP: 0, seed: 0 },
  ...{ presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1 },
}

/** POST /v1/embeddings: vectors of length 1, the same for a text whatever is computed beside it. */
export function embeddings(endpoint: Endpoint): Handler {
  const { limits } = endpoint
  const schema = embeddingRequest(limits)
  return async (exchange, tenant) => {
    const body = await parseBody(exchange, schema, limits)
    const { adapter } = findModel(endpoint, body.model)
    checkDimensions(body, endpoint)
    const texts = await encodePrompts(body.input, endpoint, { field: 'input', isEmbedded: true })
    const base = requestBase(body, { tenant, adapter }, endpoint)
    const parts = texts.map(({ tokens }, index): GenerationParts => {
      const request = { ...base, id: randomUUID(), prompt: tokens }
      return { index, request, transcript: new Transcript(endpoint.tokenizer, []), promptOnly: true }
    })
    const call = callOf(exchange, endpoint.isGateway)
    const about = { exchange, promptField: 'input', choices: 1, tenant, model: body.model, call }
    // A large request does not fill the queue.
    const generations = new Generations(parts, { ...about, atOnce: limits.sequencesMax }, endpoint)
    await generations.start()
    const data: Embedding[] = []
    for await (const { index, embedding } of generations.pieces()) {
      assert(embedding !== undefined, 'what is pooled ends with its embedding')
      data[index] = { object: 'embedding', index, embedding: written(embedding, body) }
    }
    if (exchange.signal.aborted) return
    const usage = { prompt_tokens: generations.promptTokens, total_tokens: generations.promptTokens }
    const model = generations.adapter ?? body.model
    exchange.json(200, { object: 'list', data, model, usage } satisfies EmbeddingList)
  }
}

type EmbeddingBody = ReturnType<ReturnType<typeof embeddingRequest>['parse']>

function requestBase(
  { priority, cache_salt }: EmbeddingBody,
  { tenant, adapter }: Asker,
  { pooling }: Endpoint,
): Omit<EngineRequest, 'id' | 'prompt'> {
  return {
    ...{ sampling: noSampling, maxTokens: 1, minTokens: 0, ignoreEos: false, stopTokens: [] },
    ...{ tenant, pooling, priority: priority ?? 0 },
    ...(adapter !== undefined && { adapter }),
    ...(cache_salt !== undefined && { cacheSalt: cache_salt }),
  }
}

/** Throws the {@link Problem} of who wants more numbers than there are, before any is computed. */
function checkDimensions({ dimensions }: EmbeddingBody, { engine }: Endpoint): void {
  const { width } = engine.info
  if (dimensions === undefined || dimensions <= width) return
  const message = `dimensions: This model's embeddings have ${width} numbers.`
  throw new Problem(400, 'invalid_value', message, { param: 'dimensions' })
}

/** As the client wants it. */
function written(vector: Float32Array, { dimensions, encoding_format }: EmbeddingBody): number[] | string {
  const values = shortened(vector, dimensions)
  return encoding_format === 'base64' ? base64Of(values) : [...values]
}

/** The first numbers of an embedding, of length 1 again. */
function shortened(vector: Float32Array, dimensions: number | undefined): Float32Array {
  if (dimensions === undefined || dimensions === vector.length) return vector
  const kept = vector.subarray(0, dimensions)
  const length = Math.sqrt(kept.reduce((sum, value) => sum + value * value, 0))
  return length > 0 ? kept.map((value) => value / length) : kept
}

function base64Of(values: Float32Array): string {
  const bytes = Buffer.alloc(4 * values.length)
  for (const [i, value] of values.entries()) bytes.writeFloatLE(value, 4 * i)
  return bytes.toString('base64')
}
