/**
 * The evaluation of Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models",
 * OSDI 2022, re-run on simulated devices. Its headline: GPT-3 175B on 16 A100-40GB at a median latency of
 * 190 ms per generated token serves 6.81 requests/s scheduled by iterations, 0.185 by requests: 36.9 times.
 */
import { accelerators, type Efficiencies, measuredEfficiencies } from './accelerator.ts'
import { modelSizes } from './model-size.ts'
import type { Policy } from './policies.ts'
import { Roofline } from './roofline.ts'
import { type LoadTest, throughputAt, unloadedPerTokenMs } from './throughput.ts'
import { publishedLengths } from './workload.ts'

/** Table 1 of the paper: devices = tensor (intra-layer) x pipeline (inter-layer) parts. */
export const publishedDeployments = [
  { model: '13b', tensor: 1, pipeline: 1 },
  { model: '101b', tensor: 8, pipeline: 1 },
  { model: '175b', tensor: 8, pipeline: 2 },
  { model: '341b', tensor: 8, pipeline: 4 },
] as const

export const publishedHeadline = {
  model: '175b',
  perTokenMs: 190,
  iterationLevel: 6.81,
  requestLevel: 0.185,
  ratio: 36.9,
}

type Static = Extract<Policy, { name: 'static' }>

/**
 * Batches and micro-batches that are tried for the request-level baseline, as in the paper; its best counts.
 * Micro-batches of one never mix lengths; larger ones pay for it in one way or the other.
 */
const batchSizes = [
  [1, 1],
  [2, 1],
  [4, 1],
  [8, 1],
  [4, 4],
  [8, 4],
  [8, 8],
  [16, 8],
  [32, 16],
] as const

export function requestLevelPolicies(prompts: 'padded' | 'shortest'): Static[] {
  return batchSizes.map(([batchMax, microBatchMax]) => ({ name: 'static', batchMax, microBatchMax, prompts }))
}

export const publishedPolicies: Policy[] = [16, 32, 64, 128].map((batchMax) => ({
  name: 'published',
  batchMax,
}))

export const ourPolicy: Policy = {
  name: 'ours',
  options: {
    runningMax: 256,
    stepTokensMax: 512,
    prefixCache: false,
    waitingMax: Number.MAX_SAFE_INTEGER,
    queueLimitMs: Number.POSITIVE_INFINITY,
  },
}

export interface Best {
  policy: Policy
  perSecond: number
}

export interface Comparison {
  model: string
  devices: number
  perTokenMs: number
  unloadedMs: number
  requestLevel: Best
  /** With padded prompts instead of the baseline's own way. */
  requestLevelPadded: Best
  published: Best
  ours: Best
  /** Iteration-level as published against the best request-level configuration. */
  ratio: number
}

export function rooflineFor(
  { model, tensor, pipeline }: { model: string; tensor: number; pipeline: number },
  efficiencies: Efficiencies = measuredEfficiencies,
): Roofline {
  const accelerator = accelerators['a100-40gb']
  return new Roofline({ model: modelSizes[model]!, accelerator, efficiencies, tensor, pipeline })
}

export function publishedTest(requests: number, seed = 1): LoadTest {
  return { lengths: publishedLengths, requests, seed }
}

/** Compares the policies at `perTokenMs`, or at twice the latency of an unloaded device. */
export function compare(roofline: Roofline, test: LoadTest, perTokenMs?: number): Comparison {
  const { model, tensor, pipeline } = roofline.deployment
  const unloadedMs = unloadedPerTokenMs(roofline, ourPolicy, { ...test, requests: 200 })
  const limitMs = perTokenMs ?? 2 * unloadedMs
  const best = (policies: readonly Policy[]) => bestOf(roofline, policies, limitMs, test)
  const requestLevel = best(requestLevelPolicies('shortest'))
  const published = best(publishedPolicies)
  return {
    model: model.name,
    devices: tensor * pipeline,
    perTokenMs: limitMs,
    unloadedMs,
    requestLevel,
    requestLevelPadded: best(requestLevelPolicies('padded')),
    published,
    ours: best([ourPolicy]),
    ratio: published.perSecond / requestLevel.perSecond,
  }
}

function bestOf(roofline: Roofline, policies: readonly Policy[], limitMs: number, test: LoadTest): Best {
  let best: Best = { policy: policies[0]!, perSecond: 0 }
  for (const policy of policies) {
    const perSecond = throughputAt(roofline, policy, limitMs, test)
    if (perSecond > best.perSecond) best = { policy, perSecond }
  }
  return best
}

export interface Sensitivity {
  constant: keyof Efficiencies
  /** The ratio with the constant 20 % lower and 20 % higher. */
  lower: number
  higher: number
}

/** How the headline ratio moves when one constant does. */
export function sensitivity(test: LoadTest, onEach?: (done: Sensitivity) => void): Sensitivity[] {
  const deployment = publishedDeployments.find(({ model }) => model === publishedHeadline.model)!
  const ratioWith = (constant: keyof Efficiencies, factor: number) => {
    const value = Math.min(constant === 'memoryReserve' ? 0.5 : 1, measuredEfficiencies[constant] * factor)
    const roofline = rooflineFor(deployment, { ...measuredEfficiencies, [constant]: value })
    const { perTokenMs } = publishedHeadline
    const by = bestOf(roofline, requestLevelPolicies('shortest'), perTokenMs, test)
    return bestOf(roofline, publishedPolicies, perTokenMs, test).perSecond / by.perSecond
  }
  return (Object.keys(measuredEfficiencies) as (keyof Efficiencies)[]).map((constant) => {
    const done = { constant, lower: ratioWith(constant, 0.8), higher: ratioWith(constant, 1.2) }
    onEach?.(done)
    return done
  })
}
