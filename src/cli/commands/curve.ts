import { createReadStream, existsSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { writeFileAtomic } from '../../base/files.ts'
import { type Chart, chartSvg } from '../chart.ts'

/** Held-out losses of one run, or another of its metrics, by steps done. */
export interface RunCurve {
  name: string
  heldOut: { step: number; loss: number }[]
}

interface CurveFlags {
  svg?: string
  title?: string
  metric: string
  json?: boolean
}

const heldOutLoss = 'held_out_loss'

export function curveCommand(program: Command): void {
  program
    .command('curve')
    .description('show how the held-out loss of training runs went, side by side')
    .argument('<runs...>', "the jobs' folders (what their files call out), or metrics.jsonl files")
    .option('--svg <file>', 'draw it as a picture')
    .option(
      '--metric <name>',
      'what is shown: a name in metrics.jsonl, such as reward or task_NAME',
      heldOutLoss,
    )
    .option('--title <text>', "the picture's title (default: the metric's name)")
    .option('--json', 'print one JSON object')
    .action(async (runs: string[], flags: CurveFlags) => {
      const curves = await Promise.all(runs.map((run) => readCurve(resolve(run), flags.metric)))
      process.stdout.write(flags.json === true ? `${JSON.stringify({ runs: curves })}\n` : table(curves))
      if (flags.svg !== undefined)
        writeFileAtomic(flags.svg, chartSvg(chartOf(curves, flags.metric, flags.title)))
    })
}

/** Throws a UserError where there is no run, or none that has the metric: one that was not evaluated, by default. */
export async function readCurve(given: string, metric = heldOutLoss): Promise<RunCurve> {
  const path = existsSync(given) && statSync(given).isDirectory() ? join(given, 'metrics.jsonl') : given
  if (!existsSync(path))
    throw new UserError(`${path} does not exist, so there is no run to show.`, {
      failure: 'not_found',
      fix: 'Give the folder that the job file calls out.',
    })
  const lines = createInterface({ input: createReadStream(path), crlfDelay: Number.POSITIVE_INFINITY })
  let name = basename(dirname(path))
  // A resumed run does steps again: of a step, the last line counts.
  const losses = new Map<number, number>()
  const others = new Set<string>()
  for await (const line of lines) {
    const event = parsed(line)
    if (event.kind === 'start' && typeof event.name === 'string') name = event.name
    const { kind, step, [metric]: loss } = event
    if (kind !== 'metrics' || typeof step !== 'number') continue
    if (typeof loss === 'number') losses.set(step, loss)
    else for (const other of Object.keys(event)) if (!besideMetrics.has(other)) others.add(other)
  }
  if (losses.size === 0) throw noneOf(metric, path, [...others])
  const heldOut = [...losses].map(([step, loss]) => ({ step, loss })).sort((a, b) => a.step - b.step)
  return { name, heldOut }
}

/** What stands in a line of metrics beside them. */
const besideMetrics = new Set(['kind', 'atMs', 'step'])

function noneOf(metric: string, path: string, others: readonly string[]): UserError {
  const known =
    others.length === 0 ? '' : ` With --metric others are shown: ${[...others].sort().join(', ')}.`
  if (metric === heldOutLoss)
    return new UserError(`${path} has no evaluation yet.`, {
      fix: `Wait for the first one, or hold data out: data.validation.${known}`,
    })
  return new UserError(`${path} has no metric ${metric}.`, {
    fix: `Wait for it, or correct the name.${known}`,
  })
}

/** A process that died may have left half a line. */
function parsed(line: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch (error) {
    if (error instanceof SyntaxError) return {}
    throw error
  }
}

function table(curves: readonly RunCurve[]): string {
  const steps = [...new Set(curves.flatMap(({ heldOut }) => heldOut.map(({ step }) => step)))]
  const lossAt = ({ heldOut }: RunCurve, step: number) =>
    heldOut.find((one) => one.step === step)?.loss.toFixed(4) ?? ''
  const rows = [
    ['step', ...curves.map(({ name }) => name)],
    ...steps.sort((a, b) => a - b).map((step) => [`${step}`, ...curves.map((one) => lossAt(one, step))]),
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) => `${row.map((cell, column) => cell.padStart(widths[column]!)).join('  ')}\n`)
    .join('')
}

function chartOf(curves: readonly RunCurve[], metric: string, title = metric.replaceAll('_', ' ')): Chart {
  const base = curves.map(({ heldOut }) => heldOut[0]!).find(({ step }) => step === 0)
  return {
    title,
    xTitle: 'steps',
    yTitle: metric === heldOutLoss ? 'held-out loss, nats per token' : metric,
    scale: 'linear',
    ...(base !== undefined && { limit: { y: base.loss, title: 'before training' } }),
    lines: curves.map(({ name, heldOut }) => ({
      title: `${name}: ${heldOut.at(-1)!.loss.toFixed(3)} after ${heldOut.at(-1)!.step} steps`,
      points: heldOut.map(({ step, loss }) => ({ x: step, y: loss })),
    })),
  }
}
