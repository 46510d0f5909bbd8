import type { EngineRequest, Sampling } from '../../src/serve/request.ts'

export const greedy: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
}

let count = 0

/** A greedy request without stop tokens; each has an id of its own. */
export function request(given: Partial<EngineRequest> = {}): EngineRequest {
  return {
    id: `request-${count++}`,
    prompt: [1, 2, 3],
    sampling: greedy,
    maxTokens: 4,
    minTokens: 0,
    ignoreEos: false,
    stopTokens: [],
    tenant: 'tenant',
    priority: 0,
    ...given,
  }
}
