/** MLflow's REST API 2.0 (mlflow.org/docs/latest/rest-api.html): one run, gone on with in every life of the job. */
import { z } from 'zod'
import type { RunEvent, Sink } from './sink.ts'

export interface MlflowOptions {
  /** Of the tracking server. */
  url: string
  experiment: string
  /** What the server's proxy wants to see; never shown. */
  authorization?: string | undefined
  /** The run of an earlier life. */
  runId?: string | undefined
  /** The run has this id. */
  onRun: (runId: string) => void
}

/** Of one call of log-batch. */
const [metricsMax, parametersMax, valueLengthMax] = [1000, 100, 500]
const answerBytesMax = 1 << 20

export class Mlflow implements Sink {
  readonly name: string
  readonly #options: MlflowOptions
  #runId: string | undefined

  constructor(options: MlflowOptions) {
    this.name = `MLflow at ${new URL(options.url).host}`
    this.#options = options
    this.#runId = options.runId
  }

  async write(events: readonly RunEvent[], signal: AbortSignal): Promise<void> {
    let metrics: Metric[] = []
    const flush = async () => {
      for (let i = 0; i < metrics.length; i += metricsMax) {
        const part = metrics.slice(i, i + metricsMax)
        await this.#post('runs/log-batch', { run_id: this.#runId, metrics: part }, signal)
      }
      metrics = []
    }
    for (const event of events) {
      if (event.kind === 'start') await this.#begin(event, signal)
      else if (event.kind === 'metrics') metrics.push(...metricsOf(event))
      else if (event.kind === 'end') {
        await flush()
        // A job that was refused before it began has no run.
        if (this.#runId === undefined) continue
        const status = { finished: 'FINISHED', stopped: 'KILLED', failed: 'FAILED' }[event.outcome]
        const body = { run_id: this.#runId, status, end_time: event.atMs }
        await this.#post('runs/update', body, signal)
      }
    }
    await flush()
  }

  async #begin(event: Extract<RunEvent, { kind: 'start' }>, signal: AbortSignal): Promise<void> {
    if (this.#runId !== undefined) {
      await this.#post('runs/update', { run_id: this.#runId, status: 'RUNNING' }, signal)
      return
    }
    const body = {
      experiment_id: await this.#experiment(signal),
      run_name: event.name,
      start_time: event.atMs,
      tags: [{ key: 'mlflow.source.name', value: 'ropeway' }],
    }
    const { run } = createdRun.parse(await this.#post('runs/create', body, signal))
    this.#runId = run.info.run_id
    this.#options.onRun(run.info.run_id)
    const params = parametersOf(event.settings).slice(0, parametersMax)
    await this.#post('runs/log-batch', { run_id: this.#runId, params }, signal)
  }

  async #experiment(signal: AbortSignal): Promise<string> {
    const name = this.#options.experiment
    const query = `experiments/get-by-name?experiment_name=${encodeURIComponent(name)}`
    const known = await this.#call('GET', query, undefined, signal)
    if (known.status !== 404) return foundExperiment.parse(await answerOf(known)).experiment.experiment_id
    await known.body?.cancel()
    return createdExperiment.parse(await this.#post('experiments/create', { name }, signal)).experiment_id
  }

  async #post(path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    return await answerOf(await this.#call('POST', path, body, signal))
  }

  async #call(method: string, path: string, body: unknown, signal: AbortSignal): Promise<Response> {
    const { url, authorization } = this.#options
    return await fetch(`${url.replace(/\/+$/, '')}/api/2.0/mlflow/${path}`, {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(authorization !== undefined && { authorization }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      // A redirect would carry the authorization elsewhere.
      redirect: 'error',
      signal,
    })
  }
}

const foundExperiment = z.object({ experiment: z.object({ experiment_id: z.string() }) })
const createdExperiment = z.object({ experiment_id: z.string() })
const createdRun = z.object({ run: z.object({ info: z.object({ run_id: z.string() }) }) })

async function answerOf(response: Response): Promise<unknown> {
  const text = await response.text()
  if (!response.ok) throw new Error(`status ${response.status}: ${text.slice(0, 200)}`)
  if (text.length > answerBytesMax) throw new Error(`an answer of ${text.length} characters`)
  return JSON.parse(text)
}

interface Metric {
  key: string
  value: number
  timestamp: number
  step: number
}

function metricsOf({ values, atMs, step }: Extract<RunEvent, { kind: 'metrics' }>): Metric[] {
  return Object.entries(values).map(([key, value]) => ({ key, value, timestamp: Math.round(atMs), step }))
}

/** Settings as `a.b.c`; MLflow keeps texts only. */
function parametersOf(value: unknown, path = ''): { key: string; value: string }[] {
  if (typeof value !== 'object' || value === null)
    return [{ key: path, value: String(value).slice(0, valueLengthMax) }]
  return Object.entries(value).flatMap(([key, inner]) =>
    parametersOf(inner, path === '' ? key : `${path}.${key}`),
  )
}
