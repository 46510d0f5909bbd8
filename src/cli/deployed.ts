/** Deployments of the service as `generate` and `chat` talk to them: through the gateway, as any client. */
import * as api from '../api/control/deployments.ts'
import { Refused } from '../api/control/problem.ts'
import { UserError } from '../base/errors.ts'
import { isServiceKnown } from './contexts.ts'
import { sessionOf } from './noun.ts'
import type { SamplingFlags } from './sampling-options.ts'

/** A deployment, or an adapter or version of it, and where it answers. */
export interface Deployed {
  readonly model: string
  readonly url: string
  readonly key: string | undefined
}

export interface Answered {
  readonly text: string
  readonly reason: string
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly generatedTokens: number
  /** Milliseconds to the first text and from there to the end. */
  readonly firstMs: number
  readonly restMs: number
}

/** `name`, `name:adapter` or `name:v2` of the project; undefined when no service is known, or has none of that name. */
export async function deployedAs(model: string): Promise<Deployed | undefined> {
  if (!isServiceKnown(undefined)) return undefined
  const session = sessionOf({})
  const [deployment = ''] = model.split(':', 1)
  try {
    const params = { project: session.project, deployment }
    const shown = await session.client.call(api.showDeployment, { params })
    if (shown.name !== deployment || shown.url === null) return undefined
    return { model, url: shown.url, key: shown.public ? undefined : session.token }
  } catch (error) {
    if (error instanceof Refused && error.code === 'not_found') return undefined
    if (!(error instanceof UserError) || error.failure !== 'unreachable') throw error
    throw new UserError(`There is no model '${model}' on this machine. ${error.message}`, {
      failure: 'not_found',
      fix: 'Give a folder or a .gguf file, or start the service: npm start, or ropeway up.',
      cause: error,
    })
  }
}

/** Streams an answer through `write`. `path` is that of OpenAI's API, `body` the request without what flags say. */
export async function askDeployed(
  { url, model, key }: Deployed,
  path: '/completions' | '/chat/completions',
  body: Readonly<Record<string, unknown>>,
  flags: SamplingFlags,
  write: (text: string) => void,
  signal: AbortSignal,
): Promise<Answered> {
  const startedMs = performance.now()
  const request = {
    model,
    ...body,
    ...fieldsOf(flags),
    stream: true,
    stream_options: { include_usage: true },
  }
  const response = await asked(`${url}${path}`, key, request, signal)
  let [text, reason, firstMs] = ['', 'aborted', 0]
  let usage: Usage = {}
  for await (const chunk of eventsOf(response)) {
    if (chunk.error !== undefined) throw new UserError(`The answer broke off: ${chunk.error.message}`)
    const [choice] = chunk.choices ?? []
    const piece = choice?.text ?? choice?.delta?.content ?? ''
    if (piece !== '' && firstMs === 0) firstMs = performance.now() - startedMs
    if (piece !== '') write(piece)
    text += piece
    reason = choice?.finish_reason ?? reason
    usage = chunk.usage ?? usage
  }
  return {
    ...{ text, reason, firstMs, restMs: performance.now() - startedMs - firstMs },
    promptTokens: usage.prompt_tokens ?? 0,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    generatedTokens: usage.completion_tokens ?? 0,
  }
}

function fieldsOf(flags: SamplingFlags): Record<string, unknown> {
  const { temperature, topP, topK, minP, seed, maxTokens, minTokens, ignoreEos, stop } = flags
  const fields = {
    ...{ temperature, top_p: topP, top_k: topK, min_p: minP, seed, stop },
    ...{ max_tokens: maxTokens, min_tokens: minTokens, ignore_eos: ignoreEos },
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

/** Tokens at most, where nobody said how many: the first that the model's context has room for. */
const lengths = [512, 128, 32, undefined]

/** The answer's stream. Throws UserError when the gateway refuses. */
async function asked(
  url: string,
  key: string | undefined,
  request: Readonly<Record<string, unknown>>,
  signal: AbortSignal,
): Promise<Response> {
  const tries = 'max_tokens' in request ? [request.max_tokens] : [...lengths]
  for (;;) {
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(key !== undefined && { authorization: `Bearer ${key}` }),
      },
      body: JSON.stringify({ ...request, max_tokens: tries.shift() }),
      signal,
    })
    if (response.ok) return response
    const { error = {} } = (await response.json()) as { error?: { message?: string; code?: string | null } }
    if (error.code !== 'context_length_exceeded' || tries.length === 0)
      throw refusalOf(response.status, error)
  }
}

interface Usage {
  readonly prompt_tokens?: number
  readonly completion_tokens?: number
  readonly prompt_tokens_details?: { readonly cached_tokens?: number }
}

interface Chunk {
  readonly error?: { readonly message: string }
  readonly choices?: readonly {
    readonly text?: string
    readonly delta?: { readonly content?: string | null }
    readonly finish_reason?: string | null
  }[]
  readonly usage?: Usage | null
}

/** Data of server-sent events, each a line. */
async function* eventsOf(response: Response): AsyncGenerator<Chunk> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const piece of response.body as unknown as AsyncIterable<Uint8Array>) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (line.startsWith('data: {')) yield JSON.parse(line.slice('data: '.length)) as Chunk
    }
  }
}

function refusalOf(status: number, { message: said }: { message?: string }): UserError {
  const message = said ?? `The gateway answered ${status}.`
  if (status !== 401) return new UserError(message, { failure: 'usage' })
  return new UserError(message, {
    failure: 'auth',
    fix: 'It takes a key of its project: ropeway key create NAME --scope deployment:use, then ROPEWAY_KEY=KEY.',
  })
}
