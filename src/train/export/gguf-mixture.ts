/** What a GGUF file says of mixtures of experts, and which of them llama.cpp has. */
import { UserError } from '../../base/errors.ts'
import type { LlamaConfig } from '../../models/llama.ts'

/** Whether llama.cpp divides the shares of the experts used by their sum: by the family, whatever a file says. */
const normalised: Readonly<Record<string, boolean>> = {
  qwen3_moe: true,
  mixtral: true,
  olmoe: false,
  granitemoe: true,
  gpt_oss: true,
}

/** Counts by their keys; none for a network without experts. Throws a UserError for a mixture that has no form there. */
export function mixtureCounts({
  modelType,
  layers,
  heads,
  keyValueHeads,
  mixture,
}: LlamaConfig): [string, number][] {
  if (mixture === undefined) return []
  const refuse = (what: string) =>
    new UserError(`GGUF has no form for ${what}.`, { fix: 'Export as safetensors instead.' })
  if (!Array.from({ length: layers }, (_, i) => i).every(mixture.isIn))
    throw refuse('a network with experts in some layers only')
  if (mixture.normalised !== normalised[modelType])
    throw refuse(`a ${modelType} whose norm_topk_prob is ${mixture.normalised}`)
  // Norms over all heads of k are as wide there as those of q.
  if (modelType === 'olmoe' && heads !== keyValueHeads)
    throw refuse(`an olmoe with ${heads} heads of queries and ${keyValueHeads} of keys`)
  const counts: [string, number][] = [
    ['expert_count', mixture.experts],
    ['expert_used_count', mixture.used],
  ]
  // Elsewhere it is feed_forward_length.
  if (modelType === 'qwen3_moe' || modelType === 'gpt_oss')
    counts.push(['expert_feed_forward_length', mixture.feedForward])
  return counts
}
