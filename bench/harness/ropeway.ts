/** Our own engine as the benches drive it: the same child process and messages as `ropeway serve`. */
import { UserError } from '../../src/base/errors.ts'
import { engineEntry } from '../../src/cli/engine-options.ts'
import { type EngineProcessClient, startEngine } from '../../src/serve/process/client.ts'
import type { EngineSetup } from '../../src/serve/process/protocol.ts'
import type { EngineRequest, Finish } from '../../src/serve/request.ts'
import type { Contender } from './contender.ts'
import { type Delivery, runWorkload, type WorkItem, type Workload } from './workload.ts'

const greedy: EngineRequest['sampling'] = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
}

export interface RopewayOptions {
  modelPath: string
  /** 0 leaves the choice to the engine. */
  threads: number
  setup?: Partial<EngineSetup>
}

export class Ropeway implements Contender {
  readonly name = 'ropeway'
  readonly engine: EngineProcessClient
  #requests = 0

  private constructor(engine: EngineProcessClient) {
    this.engine = engine
  }

  static async start({ modelPath, threads, setup }: RopewayOptions): Promise<Ropeway> {
    const engine = await startEngine({
      setup: { modelPath, device: 'cpu', ...(threads > 0 && { threads }), ...setup },
      entry: engineEntry(),
    })
    return new Ropeway(engine)
  }

  get versions(): Readonly<Record<string, string>> {
    return { 'ropeway kernels': this.engine.info.kernels }
  }

  get vocabularySize(): number {
    return this.engine.info.vocabularySize
  }

  run(workload: Workload): Promise<Delivery[]> {
    return runWorkload(workload, async (item, _slot, onToken) => {
      await this.generate(item, (tokens) => {
        for (let i = 0; i < tokens; i++) onToken()
      }).ended
    })
  }

  /** Starts one request; `ended` rejects when it was not taken or failed. */
  generate(item: WorkItem, onTokens: (count: number) => void): { id: string; ended: Promise<Finish> } {
    const id = `bench-${this.#requests++}`
    const ended = new Promise<Finish>((resolve, reject) => {
      this.engine
        .submit(requestOf(id, item), ({ tokens, finish }) => {
          if (tokens.length > 0) onTokens(tokens.length)
          if (finish?.reason === 'failed') reject(new UserError(finish.message ?? 'A request failed.'))
          else if (finish !== undefined) resolve(finish)
        })
        .then((admission) => {
          if (!admission.ok) reject(new UserError(`A request was refused: ${admission.code}.`))
        }, reject)
    })
    return { id, ended }
  }

  async close(): Promise<void> {
    await this.engine.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** What a record says about the engine that ran. */
export function ranOn({ versions, engine }: Ropeway) {
  return { versions, chosen: { threads: String(engine.info.threads) } }
}

function requestOf(id: string, { prompt, outputTokens }: WorkItem): EngineRequest {
  return {
    id,
    prompt,
    sampling: greedy,
    maxTokens: outputTokens,
    minTokens: 0,
    ignoreEos: true,
    stopTokens: [],
    tenant: 'bench',
    priority: 0,
  }
}
