import { assert } from '../../base/assert.ts'
import type { IterationPlan } from '../plan.ts'
import type { Accelerator, Efficiencies } from './accelerator.ts'
import { cacheBytesPerToken, headParameters, layerParameters, type ModelSize } from './model-size.ts'

/** A model on devices: every layer is cut into `tensor` parts, the layers into `pipeline` stages. */
export interface Deployment {
  model: ModelSize
  accelerator: Accelerator
  efficiencies: Efficiencies
  tensor: number
  pipeline: number
}

/** What one iteration moves and computes. */
export interface Work {
  /** Tokens through the linear layers. */
  tokens: number
  /** Sum over these tokens of the positions that each attends to. */
  attended: number
  /** Positions whose keys and values are read, each sequence's once. */
  cacheRead: number
  /** Rows of logits. */
  rows: number
}

export function workOf(plan: IterationPlan): Work {
  const work = { tokens: 0, attended: 0, cacheRead: 0, rows: 0 }
  for (const { start, count, outputs } of plan.sequences) {
    work.tokens += count
    work.attended += count * start + (count * (count + 1)) / 2
    work.cacheRead += start + count
    work.rows += outputs
  }
  return work
}

const millisecondsPerSecond = 1000
// Reads and writes of a token's activations around the products of a layer, in units of the hidden width.
const activationsPerLayer = 24

/**
 * Time of an iteration by the roofline model (Williams et al., CACM 2009): the larger of computing and moving
 * bytes, for linear layers and for attention apart, plus two ring all-reduces and a constant a layer
 * (alpha-beta model: Thakur et al., IJHPCA 2005).
 */
export class Roofline {
  readonly deployment: Deployment
  readonly weightBytes: number
  /** Tokens whose keys and values fit beside the weights. */
  readonly cacheTokens: number
  readonly #perToken: { productSeconds: number; memorySeconds: number; linkSeconds: number }
  readonly #weightSeconds: number
  readonly #rowSeconds: number
  readonly #attendedSeconds: number
  readonly #cacheSeconds: number
  readonly #constantSeconds: number
  readonly #sendSecondsPerToken: number

  constructor(deployment: Deployment) {
    const { model, accelerator, efficiencies: share, tensor, pipeline } = deployment
    assert(tensor >= 1 && pipeline >= 1 && model.layers >= pipeline, 'every stage has a layer')
    this.deployment = deployment
    const devices = tensor * pipeline
    const parameters = layerParameters(model)
    this.weightBytes = (parameters + headParameters(model)) * model.bytesPerNumber
    const memory = accelerator.memoryBytes * devices * (1 - share.memoryReserve) - this.weightBytes
    this.cacheTokens = Math.floor(memory / cacheBytesPerToken(model))
    const flops = accelerator.peakFlops * share.products * devices
    const bytes = accelerator.memoryBytesPerSecond * share.memory * devices
    const width = model.hidden * model.bytesPerNumber
    const reduces = 2 * (model.layers / pipeline)
    const ring = 2 * (tensor - 1)
    this.#perToken = {
      productSeconds: (2 * parameters) / flops,
      memorySeconds: (activationsPerLayer * width * model.layers) / bytes,
      linkSeconds: (reduces * (ring / tensor) * width) / (accelerator.linkBytesPerSecond * share.link),
    }
    this.#weightSeconds = this.weightBytes / bytes
    this.#rowSeconds = (2 * headParameters(model)) / flops
    this.#attendedSeconds =
      (4 * model.hidden * model.layers) / (accelerator.peakFlops * share.attention * devices)
    this.#cacheSeconds = cacheBytesPerToken(model) / bytes
    this.#constantSeconds = reduces * ring * share.hopSeconds + (model.layers / pipeline) * share.layerSeconds
    const perNode = Math.max(1, Math.floor(accelerator.devicesPerNode / tensor))
    const { linkBytesPerSecond, networkBytesPerSecond } = accelerator
    // Stages that share a node talk over its links. Each device sends its part.
    const sendBytesPerSecond = perNode >= pipeline ? linkBytesPerSecond : networkBytesPerSecond
    this.#sendSecondsPerToken = width / (sendBytesPerSecond * tensor)
  }

  /** Milliseconds that each stage of the pipeline is busy with `work`. */
  stageMs({ tokens, attended, cacheRead, rows }: Work): number {
    const { productSeconds, memorySeconds, linkSeconds } = this.#perToken
    const linear = Math.max(
      tokens * productSeconds + rows * this.#rowSeconds,
      this.#weightSeconds + tokens * memorySeconds,
    )
    const attention = Math.max(attended * this.#attendedSeconds, cacheRead * this.#cacheSeconds)
    return (linear + attention + this.#constantSeconds + tokens * linkSeconds) * millisecondsPerSecond
  }

  /** Milliseconds between the end of one stage and the start of the next. */
  sendMs(tokens: number): number {
    const { efficiencies, pipeline } = this.deployment
    if (pipeline === 1) return 0
    return (efficiencies.sendSeconds + tokens * this.#sendSecondsPerToken) * millisecondsPerSecond
  }

  /** Milliseconds of an iteration that has the device to itself. */
  iterationMs(work: Work): number {
    const { pipeline } = this.deployment
    return pipeline * this.stageMs(work) + (pipeline - 1) * this.sendMs(work.tokens)
  }
}

/** A pipeline of stages, each of which serves one iteration at a time, in order. */
export class Pipeline {
  readonly roofline: Roofline
  readonly #freeMs: Float64Array

  constructor(roofline: Roofline) {
    this.roofline = roofline
    this.#freeMs = new Float64Array(roofline.deployment.pipeline)
  }

  /** When an iteration that is ready at `nowMs` comes out at the end. */
  pass(work: Work, nowMs: number): number {
    const stageMs = this.roofline.stageMs(work)
    const sendMs = this.roofline.sendMs(work.tokens)
    let readyMs = nowMs
    for (let stage = 0; stage < this.#freeMs.length; stage++) {
      const startMs = Math.max(readyMs, this.#freeMs[stage]!)
      this.#freeMs[stage] = startMs + stageMs
      readyMs = startMs + stageMs + (stage + 1 < this.#freeMs.length ? sendMs : 0)
    }
    return readyMs
  }
}
