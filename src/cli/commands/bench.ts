import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { basename } from 'node:path'
import type { Command } from 'commander'
import { Option } from 'commander'
import { systemClock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { writeFileAtomic } from '../../base/files.ts'
import { openModel } from '../../models/open.ts'
import { loadWeights } from '../../models/weights.ts'
import { Device } from '../../runtime/device.ts'
import { loadKernels } from '../../runtime/kernels.ts'
import { ModelExecutor } from '../../serve/model-executor.ts'
import { accelerators } from '../../serve/simulate/accelerator.ts'
import { type PolicyName, policyTitles } from '../../serve/simulate/policies.ts'
import {
  benchPolicies,
  comparedPolicies,
  engineRunner,
  type PolicyBench,
  type PolicyPoint,
  type Runner,
  simulatedRunner,
  type Verdict,
  verdictOf,
} from '../../serve/simulate/policy-bench.ts'
import { publishedLengths } from '../../serve/simulate/workload.ts'
import { type Chart, chartSvg } from '../chart.ts'
import { milliseconds, number, wholeNumber } from '../options.ts'
import { dim, note } from '../terminal.ts'
import { resolveModel } from '../text-model.ts'
import { deviceOf } from './simulate.ts'

interface PolicyFlags {
  simulated?: boolean
  device: keyof typeof accelerators
  tensor: number
  pipeline: number
  threads?: number
  batch: number
  timeout: number
  rates?: number[]
  prompt: readonly [number, number]
  output: readonly [number, number]
  homogeneous?: boolean
  minutes: number
  requestsMax: number
  seed: number
  out?: string
  plot?: string
}

const policyCount = 4
/** A run takes up to twice as long as its requests take to arrive, most of them hardly longer. */
const windowShare = 0.6
/** Virtual time costs nothing; here every rate takes its part of the minutes, so they lie where curves cross. */
const rateSteps = { simulated: [0.25, 0.5, 1, 2, 4, 8, 16, 32], here: [0.5, 1, 2, 3, 4, 6] }

export function benchCommand(program: Command): void {
  program
    .command('bench')
    .description('measure the engine')
    .command('policies')
    .description('compare ways to schedule requests: latency per token against requests a second')
    .argument('<model>', 'folder, .gguf file or name of a model; with --simulated a size such as 13b')
    .option('--simulated', 'run on a simulated device instead of this machine')
    .addOption(
      new Option('--device <name>', 'the simulated devices')
        .choices(Object.keys(accelerators))
        .default('a100-40gb'),
    )
    .option('--tensor <n>', 'simulated devices that share every layer', wholeNumber(1, 64), 1)
    .option('--pipeline <n>', 'stages that the layers are cut into', wholeNumber(1, 64), 1)
    .option('--threads <n>', 'compute threads (default: every core)', wholeNumber(1, 256))
    .option('--batch <n>', 'requests in a batch at most, for every policy', wholeNumber(1, 256), 32)
    .option(
      '--timeout <time>',
      'how long a batch waits for company under the time-out policy',
      milliseconds,
      200,
    )
    .option(
      '--rates <list>',
      'requests a second, separated by commas (default: from the unloaded model)',
      rateList,
    )
    .option('--prompt <range>', 'prompt tokens, uniform', range, publishedLengths.prompt)
    .option('--output <range>', 'generated tokens, uniform', range, publishedLengths.output)
    .option('--homogeneous', 'every request has the middle of both ranges')
    .option('--minutes <n>', 'duration of the whole bench on this machine, about', number(0.01, 10_000), 15)
    .option('--requests-max <n>', 'requests of one run at most', wholeNumber(1), 2000)
    .option('--seed <n>', 'seed of lengths, arrivals and prompts', wholeNumber(0), 1)
    .option('--out <file>', 'append JSON lines here; runs that it holds already are not repeated')
    .option('--plot <file>', 'draw the curves as SVG')
    .action(policies)
}

async function policies(model: string, flags: PolicyFlags): Promise<void> {
  const bench = benchOf(flags)
  const setting = settingOf(model, flags, bench)
  const known = flags.out === undefined ? [] : knownPoints(flags.out, setting)
  const lines: string[] = flags.out !== undefined && existsSync(flags.out) ? linesOf(flags.out) : []
  const record = (line: object) => {
    const text = JSON.stringify(line)
    lines.push(text)
    if (flags.out === undefined) process.stdout.write(`${text}\n`)
    else writeFileAtomic(flags.out, `${lines.join('\n')}\n`)
  }
  if (known.length === 0) record({ type: 'setting', ...setting })
  using place = flags.simulated === true ? simulatedPlace(model, flags) : enginePlace(model, flags)
  const points = await benchPolicies(bench, place.run, known, (point) => {
    record({ type: 'point', ...point })
    note(dim(pointText(point)))
  })
  const verdict = verdictOf(points)
  record({ type: 'verdict', ...verdict })
  if (flags.plot !== undefined) writeFileAtomic(flags.plot, chartSvg(chartOf(points, verdict, setting)))
  note(verdictText(verdict))
}

function benchOf(flags: PolicyFlags): PolicyBench {
  const middle = ([min, max]: readonly [number, number]) => Math.round((min + max) / 2)
  const flat = (of: readonly [number, number]): readonly [number, number] => [middle(of), middle(of)]
  const { prompt, output } = flags
  const runs = (flags.rates ?? rateSteps.here).length * policyCount
  const windowMs = ((flags.minutes * 60_000) / runs) * windowShare
  return {
    lengths: flags.homogeneous === true ? { prompt: flat(prompt), output: flat(output) } : { prompt, output },
    rateSteps: flags.simulated === true ? rateSteps.simulated : rateSteps.here,
    policies: comparedPolicies(flags.batch, flags.timeout),
    ...(flags.rates !== undefined && { rates: flags.rates }),
    seed: flags.seed,
    windowMs: flags.simulated === true ? Number.POSITIVE_INFINITY : windowMs,
    requestsMax: flags.requestsMax,
  }
}

/** What has to be equal for points of an earlier run to count. */
function settingOf(model: string, flags: PolicyFlags, { lengths, windowMs }: PolicyBench) {
  const { batch, timeout, seed, requestsMax } = flags
  const { device, tensor, pipeline, threads } = flags
  const where =
    flags.simulated === true
      ? { device, tensor, pipeline }
      : { cpu: cpus()[0]?.model.trim() ?? 'unknown', cores: availableParallelism(), threads: threads ?? null }
  return { model: basename(model), ...where, lengths, batch, timeoutMs: timeout, seed, requestsMax, windowMs }
}

function linesOf(path: string): string[] {
  return readFileSync(path, 'utf8').split('\n').filter(Boolean)
}

function knownPoints(path: string, setting: object): PolicyPoint[] {
  if (!existsSync(path)) return []
  const lines = linesOf(path).map((line) => JSON.parse(line, latencies) as { type: string })
  const last = lines.map(({ type }) => type).lastIndexOf('setting')
  const { type: _, ...recorded } = lines[last] ?? { type: '' }
  if (JSON.stringify(recorded) !== JSON.stringify(setting)) return []
  const points = lines.slice(last).filter(({ type }) => type === 'point') as (PolicyPoint & {
    type: string
  })[]
  return points.map(({ type, ...point }) => point)
}

/** A latency without end is null in JSON. */
function latencies(key: string, value: unknown): unknown {
  return value === null && (key === 'p50' || key === 'p99') ? Number.POSITIVE_INFINITY : value
}

interface Place extends Disposable {
  run: Runner
}

function simulatedPlace(model: string, flags: PolicyFlags): Place {
  const roofline = deviceOf({ ...flags, model })
  return { run: simulatedRunner(roofline), [Symbol.dispose]: () => undefined }
}

/** The engine in this process: nothing else runs here meanwhile, so nothing can disturb it. */
function enginePlace(given: string, flags: PolicyFlags): Place {
  const device = new Device(flags.threads === undefined ? {} : { threads: flags.threads })
  const longest = flags.prompt[1] + flags.output[1]
  using model = openModel(resolveModel(given), 2 * longest)
  const weights = loadWeights(model, device, { kernels: device.isHost ? loadKernels() : undefined })
  const contextMax = Math.min(model.definition.config.contextMax, 2 * longest)
  if (longest > contextMax) {
    throw new UserError(
      `The model takes ${contextMax} tokens; requests of this bench have up to ${longest}.`,
      {
        failure: 'usage',
        fix: 'Choose shorter ones with --prompt MIN-MAX and --output MIN-MAX.',
      },
    )
  }
  // Room for full batches of the longest, with a block more for each: memory is not what is compared here.
  const cacheTokens = flags.batch * (longest + 64)
  const executor = new ModelExecutor(model.definition, weights, device, { cacheTokens, contextMax })
  const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
  return {
    run: engineRunner(executor, { clock: systemClock, seed: flags.seed, sleep }),
    [Symbol.dispose]: () => {
      executor.dispose()
      weights[Symbol.dispose]()
      device.dispose()
    },
  }
}

function chartOf(
  points: readonly PolicyPoint[],
  verdict: Verdict,
  { model, lengths }: ReturnType<typeof settingOf>,
): Chart {
  const names = Object.keys(policyTitles) as PolicyName[]
  return {
    title: `${model}: prompts of ${lengths.prompt.join('-')}, outputs of ${lengths.output.join('-')} tokens`,
    xTitle: 'requests per second',
    yTitle: 'median latency per token, ms',
    scale: 'logarithmic',
    limit: { y: verdict.limitMs, title: 'twice the unloaded latency' },
    lines: names.map((name) => ({
      title: policyTitles[name],
      points: points
        .filter(({ policy, offered }) => policy === name && offered > 0)
        .map(({ offered, perTokenMs }) => ({ x: offered, y: perTokenMs.p50 })),
    })),
  }
}

function pointText({ policy, offered, perTokenMs, requestsPerSecond, unfinished }: PolicyPoint): string {
  const load = offered === 0 ? 'unloaded' : `${offered} requests/s`
  const left = unfinished > 0 ? `, ${unfinished} unfinished` : ''
  return (
    `${policy.padEnd(10)} ${load}: ${perTokenMs.p50.toFixed(1)} ms/token (p99 ${perTokenMs.p99.toFixed(0)}), ` +
    `${requestsPerSecond.toPrecision(3)} served${left}`
  )
}

function verdictText({ limitMs, perSecond, atLeast, ratio }: Verdict): string {
  const rows = (Object.keys(perSecond) as PolicyName[]).map((name) => {
    const times = ratio[name] === undefined ? '' : `   Ropeway serves ${ratio[name].toFixed(2)}x`
    const least = atLeast.includes(name) ? ' or more' : ''
    return `  ${policyTitles[name].padEnd(32)} ${perSecond[name]!.toPrecision(3)} requests/s${least}${times}`
  })
  return [`At ${limitMs.toFixed(1)} ms/token, twice the unloaded latency:`, ...rows].join('\n')
}

function rateList(text: string): number[] {
  return text.split(',').map(number(1e-6, 1e6))
}

function range(text: string): readonly [number, number] {
  const parts = text.split('-').map(wholeNumber(1))
  const [min, max] = [parts[0]!, parts.at(-1)!]
  return min <= max ? [min, max] : [max, min]
}
