import { Random } from '../../src/base/random.ts'

const fields = [
  'prompt',
  'messages',
  'n',
  'best_of',
  'max_tokens',
  'max_completion_tokens',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'min_tokens',
  'stop',
  'stop_token_ids',
  'logprobs',
  'top_logprobs',
  'echo',
  'suffix',
  'stream',
  'stream_options',
  'seed',
  'logit_bias',
  'presence_penalty',
  'repetition_penalty',
  'repeat_penalty',
  'user',
  'tools',
  'tool_choice',
  'response_format',
  'priority',
  'cache_salt',
  'ignore_eos',
  'metadata',
  'modalities',
  'chat_template_kwargs',
  'continue_final_message',
  'add_generation_prompt',
  '__proto__',
  'constructor',
] as const

const texts = [
  '',
  'x',
  'Once upon',
  '\u0000',
  '\ud800',
  '👩‍👩‍👧',
  '한글',
  '<|end|>',
  '{{ 7*7 }}',
  'a'.repeat(300),
]
const numbers = [0, 1, -1, 2, 0.5, 3, 17, 1e9, -1e9, 2 ** 53, 1e300, 4.9e-324]
const keys = ['role', 'content', 'type', 'text', 'function', 'name', '5', 'x', 'include_usage', '__proto__']
const words = ['user', 'assistant', 'system', 'tool', 'text', 'function', 'auto', 'none']

/** A request body near the valid ones: a good request with a few fields replaced, then perhaps cut or torn. */
export function fuzzedBody(seed: number, model: string): { path: string; body: string } {
  const random = new Random(seed)
  const pick = <Item>(items: readonly Item[]): Item => items[random.integer(items.length)]!
  const value = (depth: number): unknown => {
    const kind = random.integer(depth > 3 ? 4 : 6)
    if (kind === 0) return pick(texts)
    if (kind === 1) return pick(numbers)
    if (kind === 2) return pick([true, false, null])
    if (kind === 3) return pick(words)
    const count = random.integer(4)
    if (kind === 4) return Array.from({ length: count }, () => value(depth + 1))
    return Object.fromEntries(Array.from({ length: count }, () => [pick(keys), value(depth + 1)]))
  }
  const isChat = random.uniform() < 0.5
  const start = isChat ? { messages: [{ role: 'user', content: 'hi' }] } : { prompt: 'hi' }
  const entries = new Map<string, unknown>(Object.entries({ model, max_tokens: 3, ...start }))
  for (let change = random.integer(4); change >= 0; change--) entries.set(pick(fields), value(0))
  // Object.fromEntries would lose __proto__, which is a name like any other in JSON.
  const json = `{${[...entries].map(([key, item]) => `${JSON.stringify(key)}:${JSON.stringify(item)}`).join(',')}}`
  const torn = random.uniform()
  const at = random.integer(json.length)
  const body =
    torn < 0.05 ? json.slice(0, at) : torn < 0.1 ? `${json.slice(0, at)}\u0007${json.slice(at)}` : json
  return { path: isChat ? '/v1/chat/completions' : '/v1/completions', body }
}
