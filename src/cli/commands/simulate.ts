import type { Command } from 'commander'
import { Option } from 'commander'
import { UserError } from '../../base/errors.ts'
import { type Accelerator, accelerators, measuredEfficiencies } from '../../serve/simulate/accelerator.ts'
import { type Capacity, replicasFor, type ServiceGoal, servingPolicy } from '../../serve/simulate/capacity.ts'
import { runFleet } from '../../serve/simulate/fleet.ts'
import { modelSizes } from '../../serve/simulate/model-size.ts'
import {
  type Best,
  type Comparison,
  compare,
  publishedDeployments,
  publishedHeadline,
  publishedTest,
  rooflineFor,
  sensitivity,
} from '../../serve/simulate/osdi22.ts'
import { Roofline } from '../../serve/simulate/roofline.ts'
import { summarize } from '../../serve/simulate/statistics.ts'
import { readTrace } from '../../serve/simulate/trace-file.ts'
import { day, publishedLengths } from '../../serve/simulate/workload.ts'
import { milliseconds, number, wholeNumber } from '../options.ts'
import { compact, dim, note } from '../terminal.ts'

interface DeviceFlags {
  model: string
  device: keyof typeof accelerators
  tensor: number
  pipeline: number
  context?: number
}

interface FleetFlags extends DeviceFlags {
  goalTtft: number
  goalTpot: number
  share: number
  stepTokens: number
  engineGoals?: boolean
  json?: boolean
}

interface DayFlags extends FleetFlags {
  requests: number
  seed: number
  lengths: 'conversation' | 'published'
  replicas: number
}

/** Longer prompts than any trace has: on a simulated device memory is the limit, not positions. */
const contextWithoutLimit = 1_000_000

export function simulateCommand(program: Command): void {
  const command = program
    .command('simulate')
    .description('run the scheduler against a cost model of a device, in virtual time')
  command
    .command('osdi22')
    .description('re-create the evaluation of the paper that published iteration-level scheduling')
    .option('--requests <n>', 'requests in each run', wholeNumber(50, 100_000), 2000)
    .option('--seed <n>', 'seed of lengths and arrivals', wholeNumber(0), 1)
    .option('--all', 'the other models of the paper too, at twice their unloaded latency')
    .option('--sensitivity', 'move every constant of the cost model by 20 % both ways')
    .option('--json', 'print one JSON object a line')
    .action(osdi22)
  withFleetOptions(
    command
      .command('trace')
      .description('say how many replicas a trace of requests needs to keep a goal')
      .argument('<file>', 'CSV (Azure LLM inference trace) or JSON lines (Mooncake), perhaps gzipped')
      .option('--replicas-max <n>', 'give up beyond so many', wholeNumber(1, 100_000), 1024),
  ).action(trace)
  withFleetOptions(
    command
      .command('day')
      .description('play a synthetic day of requests, generated from a seed, to a number of replicas')
      .option('--requests <n>', 'requests of the day', wholeNumber(1, 100_000_000), 1_000_000)
      .option('--seed <n>', 'seed of lengths and arrivals', wholeNumber(0), 1)
      .addOption(
        new Option(
          '--lengths <kind>',
          'of a conversation (1,130 in, 180 out), or of the OSDI 2022 evaluation (272 in, 64 out)',
        )
          .choices(['conversation', 'published'])
          .default('conversation'),
      )
      .option('--replicas <n>', 'engines that share them', wholeNumber(1, 100_000), 24),
  ).action(playDay)
}

function withFleetOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--model <name>', 'size of the model').choices(Object.keys(modelSizes)).default('13b'),
    )
    .addOption(
      new Option('--device <name>', 'its devices').choices(Object.keys(accelerators)).default('a100-40gb'),
    )
    .option('--tensor <n>', 'devices that share every layer', wholeNumber(1, 64), 1)
    .option('--pipeline <n>', 'stages that the layers are cut into', wholeNumber(1, 64), 1)
    .option('--context <n>', 'longest context (default: what the memory holds)', wholeNumber(2))
    .option('--goal-ttft <time>', 'time to the first token to keep', milliseconds, 2000)
    .option('--goal-tpot <time>', 'time between two tokens to keep', milliseconds, 100)
    .option('--share <x>', 'share of the requests that must keep both', number(0, 1), 0.99)
    .option('--step-tokens <n>', 'tokens that one iteration computes at most', wholeNumber(2), 512)
    .option('--engine-goals', 'hand the goals to the scheduler too, as `ropeway serve --goal-tpot` does')
    .option('--json', 'print one JSON object')
}

function osdi22(flags: {
  requests: number
  seed: number
  all?: boolean
  sensitivity?: boolean
  json?: boolean
}): void {
  const test = publishedTest(flags.requests, flags.seed)
  const show = (line: object, text: string) => print(flags.json === true ? JSON.stringify(line) : text)
  for (const deployment of publishedDeployments) {
    const headline = deployment.model === publishedHeadline.model
    if (!headline && flags.all !== true) continue
    const roofline = rooflineFor(deployment)
    const limits = headline ? [publishedHeadline.perTokenMs, undefined] : [undefined]
    for (const limitMs of limits) {
      const result = compare(roofline, test, limitMs)
      show({ type: 'comparison', ...result }, comparisonText(result))
    }
  }
  const { perTokenMs, iterationLevel, requestLevel, ratio } = publishedHeadline
  show(
    { type: 'published', ...publishedHeadline },
    `the paper: 175b at ${perTokenMs} ms/token: ${iterationLevel} against ${requestLevel} requests/s, ${ratio}x`,
  )
  if (flags.sensitivity !== true) return
  sensitivity(test, (line) =>
    show(
      { type: 'sensitivity', ...line },
      `${line.constant.padEnd(14)} -20 %: ${line.lower.toFixed(1)}x   +20 %: ${line.higher.toFixed(1)}x`,
    ),
  )
}

function comparisonText(result: Comparison): string {
  const rate = ({ policy, perSecond }: Best) => {
    const sizes = 'batchMax' in policy ? ` (max_bs ${policy.batchMax}` : ' ('
    const micro = 'microBatchMax' in policy ? `, micro-batches of ${policy.microBatchMax}` : ''
    return `${perSecond.toPrecision(3)} requests/s${sizes === ' (' ? '' : `${sizes}${micro})`}`
  }
  return [
    `${result.model} on ${result.devices} A100-40GB at ${result.perTokenMs.toFixed(0)} ms/token ` +
      `(unloaded ${result.unloadedMs.toFixed(0)}):`,
    `  request-level                ${rate(result.requestLevel)}`,
    `  request-level, padded        ${rate(result.requestLevelPadded)}`,
    `  iteration-level, published   ${rate(result.published)}   ${result.ratio.toFixed(1)}x request-level`,
    `  Ropeway                      ${rate(result.ours)}`,
    '',
  ].join('\n')
}

function trace(file: string, flags: FleetFlags & { replicasMax: number }): void {
  const arrivals = readTrace(file)
  const roofline = deviceOf(flags)
  const goal = goalOf(flags)
  const prefixCache = arrivals.some(({ pieces }) => pieces !== undefined)
  const hours = (arrivals.at(-1)!.atMs / 3_600_000).toFixed(2)
  if (flags.json !== true) {
    note(
      dim(
        `${compact(arrivals.length)} requests over ${hours} h; cache for ${compact(roofline.cacheTokens)} tokens`,
      ),
    )
  }
  const policy = policyOf(flags, goal, prefixCache)
  const capacity = replicasFor(roofline, policy, arrivals, goal, flags.replicasMax, (replicas, enough) => {
    if (flags.json !== true) note(dim(`  ${replicas} replicas: ${enough ? 'enough' : 'too few'}`))
  })
  if (flags.json === true) print(JSON.stringify({ type: 'capacity', goal, ...capacity }))
  else print(capacityText(capacity, flags))
  if (capacity.replicas === undefined) process.exitCode = 1
}

function capacityText({ replicas, kept, refused, summary }: Capacity, flags: FleetFlags): string {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`
  const goal = `first token within ${flags.goalTtft} ms, then one every ${flags.goalTpot} ms`
  const first =
    replicas === undefined
      ? `No number of replicas that was tried keeps the goal (${goal}) for ${percent(flags.share)} of the requests.`
      : `${replicas} replicas of ${flags.model} on ${flags.tensor * flags.pipeline} ${flags.device} each keep the goal: ${goal}.`
  const { firstTokenMs, nextTokenMs } = summary
  const lines = [
    first,
    `  kept by ${percent(kept)} of the requests; first token p50 ${firstTokenMs.p50.toFixed(0)}, p99 ${firstTokenMs.p99.toFixed(0)} ms; ` +
      `between tokens p50 ${nextTokenMs.p50.toFixed(1)}, p99 ${nextTokenMs.p99.toFixed(1)} ms`,
  ]
  if (refused > 0)
    lines.push(`  ${refused} requests are longer than the cache of a replica and count as not kept`)
  return lines.join('\n')
}

function playDay(flags: DayFlags): void {
  const arrivals = day(
    flags.requests,
    flags.seed,
    flags.lengths === 'published' ? publishedLengths : undefined,
  )
  const startedMs = performance.now()
  const started = process.cpuUsage()
  const goal = goalOf(flags)
  const { replicas } = flags
  const record = runFleet(deviceOf(flags), policyOf(flags, goal, false), arrivals, { replicas })
  const wallSeconds = (performance.now() - startedMs) / 1000
  const used = process.cpuUsage(started)
  const cpuSeconds = (used.user + used.system) / 1e6
  const { iterations, preemptions } = record
  const { model, device, requests, seed, lengths } = flags
  const setting = { model, device, requests, seed, lengths, replicas }
  const result = {
    type: 'day',
    ...setting,
    wallSeconds,
    cpuSeconds,
    iterations,
    preemptions,
    ...summarize(record),
  }
  if (flags.json === true) {
    print(JSON.stringify(result))
    return
  }
  const { firstTokenMs, nextTokenMs, outputTokensPerSecond } = result
  print(
    `a day of ${compact(requests)} requests on ${replicas} replicas, simulated in ${wallSeconds.toFixed(1)} s: ` +
      `${compact(iterations)} iterations, ${outputTokensPerSecond.toFixed(0)} output tokens/s, ` +
      `first token p99 ${firstTokenMs.p99.toFixed(0)} ms, between tokens p99 ${nextTokenMs.p99.toFixed(1)} ms`,
  )
}

function policyOf(flags: FleetFlags, goal: ServiceGoal, prefixCache: boolean) {
  const { stepTokens: stepTokensMax } = flags
  return servingPolicy({ stepTokensMax, prefixCache, ...(flags.engineGoals === true && { goal }) })
}

function goalOf(flags: FleetFlags): ServiceGoal {
  return { ttftMs: flags.goalTtft, tpotMs: flags.goalTpot, share: flags.share }
}

/** The device of the flags; refuses one whose memory does not hold the model. */
export function deviceOf(flags: DeviceFlags): Roofline {
  const accelerator: Accelerator = accelerators[flags.device]
  const model = { ...modelSizes[flags.model]!, contextMax: flags.context ?? contextWithoutLimit }
  const { tensor, pipeline } = flags
  const roofline = new Roofline({ model, accelerator, efficiencies: measuredEfficiencies, tensor, pipeline })
  if (roofline.cacheTokens >= 1024) return roofline
  const gigabytes = (value: number) => `${Math.round(value / 1e9)} GB`
  throw new UserError(
    `${flags.model} needs ${gigabytes(roofline.weightBytes)} for its weights; ${tensor * pipeline} ${flags.device} ` +
      `have ${gigabytes(accelerator.memoryBytes * tensor * pipeline)} and no room for a cache beside them.`,
    { failure: 'usage', fix: 'Use more devices: --tensor N, --pipeline N.' },
  )
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}
