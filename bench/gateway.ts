/**
 * What the gateway costs: the time that it adds to a request, and what thousands of streams at once take. The
 * gateway runs here and nothing else does; replica and readers are processes of their own.
 */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { systemClock } from '../src/base/clock.ts'
import { UserError } from '../src/base/errors.ts'
import { sha256 } from '../src/control/gateway/keys.ts'
import { Ledger } from '../src/control/gateway/ledger.ts'
import { type Deployment, ReplicaTable } from '../src/control/gateway/replicas.ts'
import { Gateway } from '../src/control/gateway/server.ts'
import { type Bench, runFromCommandLine } from './harness/bench.ts'
import {
  type Comparison,
  type Measured,
  quantile,
  rounded,
  roundedAll,
  spreadOf,
} from './harness/comparison.ts'
import { startServe } from './harness/serve-process.ts'
import { type Probed, StreamReaders, type Target } from './harness/stream-readers.ts'
import { TokenReplica } from './harness/token-replica.ts'

const parameters = {
  /** Requests of each side, one at a time. */
  requests: { small: 20, large: 1000 },
  outputTokens: { small: 4, large: 16 },
  /** Streams that are open at once. */
  streams: { small: 20, large: 2000 },
  streamTokens: { small: 8, large: 80 },
  /** Between the tokens of such a stream. */
  paceMs: { small: 20, large: 250 },
  /** The same through and past the gateway with a real engine. */
  engineRequests: { small: 3, large: 60 },
  engineThreads: { small: 1, large: 1 },
} as const

const resolutionMs = 1
const promptTokens = 8
const gatewayKey = 'bench'

interface Setup {
  gatewayUrl: string
  replicaUrl: string
  engineUrl: string
  key: string
}

export const gatewayBench: Bench<typeof parameters> = {
  name: 'gateway',
  parameters,
  run: async (wanted, { modelPath, say }) => {
    await using replica = await TokenReplica.start(wanted.paceMs)
    await using engine = await startServe(modelPath, [
      ...['--name', 'engine', '--threads', String(wanted.engineThreads), '--cache-tokens', '4096'],
      ...['--gateway-key', gatewayKey, '--api-key', gatewayKey],
    ])
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-bench-gateway-'))
    const key = randomBytes(16).toString('hex')
    const ledger = new Ledger(folder, systemClock)
    const gateway = gatewayOver(replica.url, engine.url, key, ledger)
    const setup = { gatewayUrl: await gateway.listen(0), replicaUrl: replica.url, engineUrl: engine.url, key }
    try {
      await using readers = new StreamReaders()
      const { requests, outputTokens, engineRequests } = wanted
      const alone = await addedMs(readers, sides(setup, 'fast'), requests, outputTokens)
      say(`alone: ${JSON.stringify(alone.figures)}`)
      const real = await addedMs(readers, sides(setup, 'engine'), engineRequests, outputTokens)
      say(`a real engine: ${JSON.stringify(real.figures)}`)
      const crowded = await crowd(setup, wanted, say)
      return {
        figures: {
          ...named('', alone.figures),
          ...named('engine', real.figures),
          ...crowded,
          billedTokens: ledger.sums.rows().reduce((sum, row) => sum + row.output, 0),
        },
        comparisons: [...comparisons('', alone.pairs), ...comparisons('engine', real.pairs)],
      }
    } finally {
      await gateway.close(0)
      ledger.close()
      rmSync(folder, { recursive: true, force: true })
    }
  },
}

function gatewayOver(replicaUrl: string, engineUrl: string, key: string, ledger: Ledger): Gateway {
  const deployment = (name: string, url: string): Deployment => ({
    name,
    project: 'bench',
    created: 0,
    public: false,
    defaults: {},
    versions: [
      {
        id: 'v1',
        share: 1,
        model: name,
        adapters: {},
        replicas: [{ id: name, url, key: gatewayKey, state: 'ready' }],
      },
    ],
  })
  const deployments = [
    ...[deployment('fast', replicaUrl), deployment('paced', replicaUrl)],
    deployment('engine', engineUrl),
  ]
  const caller = { key: 'reader', project: 'bench', limits: { requestsPerMinute: 1e9, concurrent: 1e6 } }
  const digest = sha256(key)
  return new Gateway({
    table: new ReplicaTable({ deployments }),
    ledger,
    verify: (given) => (given === digest ? caller : undefined),
  })
}

/** Through the gateway, and past it. */
function sides({ gatewayUrl, replicaUrl, engineUrl, key }: Setup, model: string): [Target, Target] {
  return [
    { url: gatewayUrl, model, key },
    { url: model === 'engine' ? engineUrl : replicaUrl, model, key: gatewayKey },
  ]
}

type Pairs = Readonly<Record<keyof Probed, readonly (readonly [number, number])[]>>

async function addedMs(
  readers: StreamReaders,
  targets: [Target, Target],
  requests: number,
  outputTokens: number,
): Promise<{ figures: Measured; pairs: Pairs }> {
  const [through, direct] = await readers.probe({ targets, requests, outputTokens, promptTokens })
  const figures: Record<string, number> = {}
  for (const figure of ['firstMs', 'totalMs'] as const) {
    for (const [name, share] of [
      ['P50', 0.5],
      ['P99', 0.99],
    ] as const) {
      const at = (probed: readonly Probed[]) =>
        quantile(
          probed.map((one) => one[figure]).sort((a, b) => a - b),
          share,
        )
      const label = figure.replace('Ms', '')
      figures[`${label}Added${name}Ms`] = at(through!) - at(direct!)
      figures[`${label}Direct${name}Ms`] = at(direct!)
    }
    // Neighbours in time share the machine's moods: with a slow engine this says more than the two medians do.
    const paired = through!.map((one, index) => one[figure] - direct![index]![figure])
    figures[`${figure.replace('Ms', '')}PairedP50Ms`] = spreadOf(paired).median
  }
  const pairsOf = (figure: keyof Probed) =>
    through!.map((one, index) => [rounded(one[figure]), rounded(direct![index]![figure])] as const)
  return { figures, pairs: { firstMs: pairsOf('firstMs'), totalMs: pairsOf('totalMs') } }
}

/** Pairs that a comparison keeps: enough to see the spread, few enough to read. */
const pairsMax = 20

function comparisons(prefix: string, pairs: Pairs): Comparison[] {
  return (['firstMs', 'totalMs'] as const).map((figure) => {
    const ratio = spreadOf(pairs[figure].map(([a, b]) => a / b))
    return {
      figure: prefixed(prefix, figure),
      sides: ['through the gateway', 'direct'],
      values: pairs[figure].slice(0, pairsMax),
      ratio: { median: rounded(ratio.median), min: rounded(ratio.min), max: rounded(ratio.max) },
    }
  })
}

/** All streams at once, and beside them a reader that asks one at a time. */
async function crowd(
  setup: Setup,
  {
    streams,
    streamTokens,
    outputTokens,
    requests,
  }: Readonly<Record<string, number>> & {
    streams: number
    streamTokens: number
    outputTokens: number
    requests: number
  },
  say: (line: string) => void,
): Promise<Measured> {
  await using readers = new StreamReaders()
  await using probe = new StreamReaders()
  const before = process.memoryUsage().rss
  const { allStreaming, over } = readers.crowd(sides(setup, 'paced')[0], streams, streamTokens)
  const short = over.then(({ complete, faults }) => {
    throw new UserError(`Only ${complete} of ${streams} streams: ${faults.join('; ')}.`)
  })
  await Promise.race([allStreaming, short])
  const delay = monitorEventLoopDelay({ resolution: resolutionMs })
  delay.enable()
  const started = { ms: systemClock.nowMs(), cpu: process.cpuUsage() }
  const added = await addedMs(probe, sides(setup, 'fast'), Math.min(requests, 200), outputTokens)
  const cpu = process.cpuUsage(started.cpu)
  const share = (cpu.user + cpu.system) / 1000 / (systemClock.nowMs() - started.ms)
  const resident = process.memoryUsage().rss
  const result = await over
  delay.disable()
  say(`${streams} streams: ${JSON.stringify({ ...result, ...added.figures })}`)
  const late = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - resolutionMs)
  return roundedAll({
    crowdStreams: streams,
    crowdComplete: result.complete,
    crowdEvents: result.events,
    crowdMemoryPerStreamKiB: Math.max(0, resident - before) / 1024 / streams,
    crowdProcessorShare: share,
    crowdDelayP50Ms: late(delay.percentile(50)),
    crowdDelayP99Ms: late(delay.percentile(99)),
    crowdDelayMaxMs: late(delay.max),
    ...named('crowd', added.figures),
  })
}

function named(prefix: string, measured: Measured): Measured {
  return roundedAll(
    Object.fromEntries(Object.entries(measured).map(([name, value]) => [prefixed(prefix, name), value])),
  )
}

function prefixed(prefix: string, name: string): string {
  return prefix === '' ? name : prefix + name[0]!.toUpperCase() + name.slice(1)
}

await runFromCommandLine(import.meta.url, gatewayBench)
