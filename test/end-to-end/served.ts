/** The HTTP surface over a real engine process, as tests start it. */
import { pino } from 'pino'
import { engineEntry } from '../../src/cli/engine-options.ts'
import { loadTextModel } from '../../src/cli/text-model.ts'
import { createOpenAiServer, type OpenAiServer, type OpenAiServerOptions } from '../../src/openai/server.ts'
import { type EngineProcessClient, startEngine } from '../../src/serve/process/client.ts'
import type { EngineSetup } from '../../src/serve/process/protocol.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'

export interface Served extends AsyncDisposable {
  url: string
  engine: EngineProcessClient
  server: OpenAiServer
  tokenizer: Tokenizer
  /** What was logged as a bug. */
  errors: string[]
}

export const servedModel = 'real'

/** Starts an engine on one thread and serves it without keys; both end with the scope. */
export async function serveReal(
  modelPath: string,
  setup: Partial<EngineSetup> = {},
  options: Partial<OpenAiServerOptions> = {},
): Promise<Served> {
  const engine = await startEngine({
    setup: { modelPath, device: 'cpu', threads: 1, cacheTokens: 4096, ...setup },
    entry: engineEntry(),
  })
  return await serveEngine(engine, modelPath, options, () => engine.close())
}

/** Serves an engine that runs already, and leaves it running unless `end` ends it. */
export async function serveEngine(
  engine: EngineProcessClient,
  modelPath: string,
  options: Partial<OpenAiServerOptions> = {},
  end: () => Promise<void> = async () => undefined,
): Promise<Served> {
  const { tokenizer, template } = loadTextModel(modelPath)
  const errors: string[] = []
  const server = createOpenAiServer({
    engine,
    tokenizer,
    ...(template !== undefined && { template }),
    models: [{ id: servedModel, created: 1_700_000_000 }],
    log: pino({}, { write: (line: string) => void errors.push(line) }),
    ...options,
  })
  const url = await server.listen(0)
  return {
    url,
    engine,
    server,
    tokenizer,
    errors,
    [Symbol.asyncDispose]: async () => {
      await server.close(0)
      await end()
    },
  }
}
