/** Decoding with weights that are in training, by the engine that serves: the one place where both meet. */
import { assert } from '../base/assert.ts'
import { systemClock } from '../base/clock.ts'
import { UserError } from '../base/errors.ts'
import { Engine } from '../serve/engine.ts'
import { ModelExecutor } from '../serve/model-executor.ts'
import type { RequestProgress } from '../serve/request.ts'
import type { Decode, Decoded, DecodeRequest } from '../train/evaluate/decode.ts'

/** The adapter that is in training, as the engine knows it. */
const adapterName = 'in training'

/** So many requests are in the batch at once, at most. */
const togetherMax = 32

/** Greedy tokens are those that a server gives, by the same scheduler, cache and sampler. */
export const decodeWithEngine: Decode = decoder(togetherMax)

/** A decoder of which at most `together` requests are in the batch at once: the tokens are the same for any number. */
export function decoder(together: number): Decode {
  return async (parameters, device, requests) => {
    const threads = device.threadsNow
    try {
      return await decoded(parameters, device, requests, together)
    } finally {
      device.setThreads(threads)
    }
  }
}

async function decoded(
  parameters: Parameters<Decode>[0],
  device: Parameters<Decode>[1],
  requests: readonly DecodeRequest[],
  together: number,
): Promise<Decoded[]> {
  const longest = requests.reduce(
    (most, { prompt, tokensMax }) => Math.max(most, prompt.length + tokensMax),
    1,
  )
  const cacheTokens = (longest + 16) * Math.min(requests.length, together)
  using executor = executorOf(parameters, device, cacheTokens)
  const adapter = parameters.adapter()
  if (adapter !== undefined) await executor.executor.addAdapter(adapterName, adapter.layers)
  const answers = requests.map((): Decoded => ({ tokens: [], ending: undefined, logProbabilities: [] }))
  let failure: string | undefined
  const emit = (items: readonly RequestProgress[]) => {
    for (const { id, tokens, logprobs = [], finish } of items) {
      const answer = answers[Number(id)]!
      answer.tokens.push(...tokens)
      answer.logProbabilities.push(...logprobs.map(({ logprob }) => logprob))
      answer.ending = finish?.stopToken
      if (finish?.reason === 'failed') failure = finish.message ?? 'unknown'
    }
  }
  const limits = {
    runningMax: together,
    waitingMax: requests.length,
    queueLimitMs: Number.MAX_SAFE_INTEGER,
  }
  const engine = new Engine(executor.executor, limits, systemClock, emit)
  for (const [index, request] of requests.entries()) {
    const admission = engine.submit(requestOf(String(index), request, adapter && adapterName))
    if (!admission.ok) throw new UserError(`The engine refused a prompt: ${admission.code}.`)
  }
  while (engine.live > 0) await engine.step()
  assert(failure === undefined, `the engine decodes (${failure})`)
  return answers
}

function executorOf(
  parameters: Parameters<Decode>[0],
  device: Parameters<Decode>[1],
  cacheTokens: number,
): Disposable & { executor: ModelExecutor } {
  const executor = new ModelExecutor(parameters.definition, parameters.weights, device, { cacheTokens })
  return { executor, [Symbol.dispose]: () => executor.dispose() }
}

function requestOf(id: string, request: DecodeRequest, adapter: string | undefined) {
  const { prompt, tokensMax, temperature, seed, endings, logProbabilities } = request
  return {
    id,
    prompt,
    sampling: {
      temperature,
      topP: 1,
      topK: 0,
      minP: 0,
      seed,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repetitionPenalty: 1,
    },
    maxTokens: tokensMax,
    minTokens: 0,
    ignoreEos: false,
    stopTokens: endings,
    tenant: 'evaluation',
    priority: 0,
    ...(logProbabilities === true && { logprobs: 0 }),
    ...(adapter !== undefined && { adapter }),
  }
}
