/** Answers of deployments, over OpenAI's API at the service's own address. */
import { createKey } from '../../src/api/control/keys.ts'
import { UserError } from '../../src/base/errors.ts'
import { service } from './service.ts'

export interface ChatMessage {
  readonly role: 'user' | 'assistant'
  readonly content: string
}

/** What is asked: a text to go on with, or a chat. */
export interface Answering {
  readonly model: string
  readonly prompt?: string
  readonly messages?: readonly ChatMessage[]
  readonly temperature: number
  readonly maxTokens: number
}

export interface Piece {
  readonly text: string
  /** Of the whole answer so far, where the service said it. */
  readonly tokens?: number
}

/** The pieces of an answer as they come. Throws UserError when it is refused. */
export async function* answerTo(
  { project, needsKey }: { project: string; needsKey: boolean },
  { model, prompt, messages, temperature, maxTokens }: Answering,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const body = {
    ...{ model, prompt, messages, temperature },
    ...{ max_tokens: maxTokens, stream: true, stream_options: { include_usage: true } },
  }
  const response = await fetch(messages === undefined ? '/v1/completions' : '/v1/chat/completions', {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(needsKey && { authorization: `Bearer ${await keyFor(project)}` }),
    },
    body: JSON.stringify(body),
    signal,
  })
  if (!response.ok) throw await refusalOf(response)
  for await (const data of eventsOf(response)) {
    if (data === '[DONE]') return
    const event = JSON.parse(data) as Chunk
    if (event.error !== undefined) throw new UserError(event.error.message)
    const [choice] = event.choices ?? []
    const text = choice?.text ?? choice?.delta?.content ?? ''
    const tokens = event.usage?.completion_tokens
    if (text !== '' || tokens !== undefined) yield { text, ...(tokens !== undefined && { tokens }) }
  }
}

interface Chunk {
  readonly choices?: readonly {
    readonly text?: string
    readonly delta?: { readonly content?: string | null }
  }[]
  readonly usage?: { readonly completion_tokens: number } | null
  readonly error?: { readonly message: string }
}

/** The data of server-sent events, one after the other. */
async function* eventsOf(response: Response): AsyncGenerator<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const lines = (rest + read.value).split('\n')
      rest = lines.pop()!
      for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trim()
    }
  } finally {
    await reader.cancel()
  }
}

async function refusalOf(response: Response): Promise<UserError> {
  const text = await response.text()
  try {
    return new UserError((JSON.parse(text) as { error: { message: string } }).error.message)
  } catch (error) {
    return new UserError(`The service answered with status ${response.status}.`, { cause: error })
  }
}

/** Made when it is first needed, good for a day, kept by this page alone; ropeway key list shows it. */
const keys = new Map<string, Promise<string>>()

function keyFor(project: string): Promise<string> {
  const known = keys.get(project)
  if (known !== undefined) return known
  const body = {
    name: `page ${crypto.getRandomValues(new Uint32Array(1))[0]}`,
    scopes: ['deployment:use'],
    days: 1,
  }
  const made = service.call(createKey, { params: { project }, body }).then(({ key }) => key)
  keys.set(project, made)
  made.catch(() => keys.delete(project))
  return made
}
