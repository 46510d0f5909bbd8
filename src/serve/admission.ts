import type { ExecutorShape } from './executor.ts'
import type { EngineRequest, Refusal } from './request.ts'

/** Why `request` could never be served on a device of this shape, or undefined when it could. */
export function impossible(request: EngineRequest, shape: ExecutorShape): Refusal | undefined {
  if (request.prompt.length === 0) return 'empty_prompt'
  const answer = request.pooling === undefined ? request.maxTokens : 0
  if (request.prompt.length + answer > shape.contextMax) return 'context_too_long'
  if (hasStrangeToken(request.prompt, shape) || hasStrangeToken(request.generated ?? [], shape)) {
    return 'token_out_of_range'
  }
  // The last token is never fed back, so it needs no place.
  const blocks = Math.ceil((request.prompt.length + Math.max(0, answer - 1)) / shape.blockTokens)
  return blocks > shape.blockCount ? 'cache_too_small' : undefined
}

function hasStrangeToken(tokens: readonly number[], shape: ExecutorShape): boolean {
  return tokens.some((token) => !Number.isInteger(token) || token < 0 || token >= shape.vocabularySize)
}
