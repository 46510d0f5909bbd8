import { pino } from 'pino'
import { createOpenAiServer, type OpenAiServer, type OpenAiServerOptions } from '../../src/openai/server.ts'
import type { EngineInfo } from '../../src/serve/messages.ts'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { byteTokenizer } from './byte-tokenizer.ts'
import { babble, ScriptedEngine } from './scripted-engine.ts'

export const model = 'tiny/bytes'

export const info: EngineInfo = {
  model: 'tiny',
  architecture: 'scripted',
  parameters: 0,
  activeParameters: 0,
  vocabularySize: 260,
  width: 4,
  contextMax: 512,
  cacheTokens: 4096,
  device: 'none',
  threads: 1,
  kernels: 'none',
  weightBytes: 0,
  cacheBytes: 0,
}

const template = `{%- for message in messages -%}
{%- if message.role == 'tool' -%}{{ raise_exception('no tool messages here') }}{%- endif -%}
<|user|>{{ message.role }}: {{ message.content }}<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}`

export interface Harness extends AsyncDisposable {
  url: string
  engine: ScriptedEngine
  server: OpenAiServer
  /** What was logged as a bug. */
  errors: string[]
}

/** A server over a scripted engine, closed at the end of its scope. */
export async function harness(options: Partial<OpenAiServerOptions> = {}): Promise<Harness> {
  const engine = new ScriptedEngine(info, babble)
  const errors: string[] = []
  const server = createOpenAiServer({
    engine,
    tokenizer: byteTokenizer(),
    template: new ChatTemplate(template),
    models: [{ id: model, created: 1_700_000_000 }],
    log: pino({}, { write: (line: string) => void errors.push(line) }),
    ...options,
  })
  const url = await server.listen(0)
  let closed = false
  server.server.once('close', () => {
    closed = true
  })
  return {
    url,
    engine,
    server,
    errors,
    [Symbol.asyncDispose]: async () => {
      if (!closed) await server.close(0)
    },
  }
}

/** POSTs `body` as JSON. */
export async function post(
  url: string,
  body: unknown,
  init: { headers?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<Response> {
  return await fetch(url, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
    headers: { 'content-type': 'application/json', ...init.headers },
  })
}

/** The payloads of a whole event stream, comments left out; `[DONE]` stays a text. */
export async function events(response: Response): Promise<unknown[]> {
  const lines = (await response.text()).split('\n\n')
  return lines
    .filter((line) => line.startsWith('data: '))
    .map((line) => line.slice('data: '.length))
    .map((data) => (data === '[DONE]' ? data : JSON.parse(data)))
}
