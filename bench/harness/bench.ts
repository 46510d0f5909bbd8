/**
 * What a bench is: parameters that each have a small and a large value, and a run that turns values into
 * figures. The small values run inside `npm test`, so that no bench rots; the large ones are measured and
 * committed as JSON lines.
 */
import { appendFileSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { argv } from 'node:process'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { messageOf, UserError } from '../../src/base/errors.ts'
import type { Comparison } from './comparison.ts'
import { describeSetting, type RecordedSetting } from './machine.ts'
import { benchModel } from './model.ts'

export interface Parameter {
  readonly small: number
  readonly large: number
}
export type Parameters = Readonly<Record<string, Parameter>>
export type Size = keyof Parameter
export type Values<P extends Parameters> = { readonly [Name in keyof P]: number }

export interface Surroundings {
  modelPath: string
  /** Progress for a person who waits. */
  say: (line: string) => void
}

export interface Findings {
  figures: Readonly<Record<string, number>>
  comparisons: readonly Comparison[]
  /** Versions of what was compared, beside our own. */
  versions?: Readonly<Record<string, string>>
  /** Choices that the run made by measuring. */
  chosen?: Readonly<Record<string, string>>
}

export interface Bench<P extends Parameters> {
  name: string
  parameters: P
  run(values: Values<P>, surroundings: Surroundings): Promise<Findings>
}

/** One line of bench/results/*.jsonl. */
export interface BenchRecord extends Findings {
  bench: string
  size: Size | 'custom'
  parameters: Readonly<Record<string, number>>
  setting: RecordedSetting
}

export function valuesOf<P extends Parameters>(parameters: P, size: Size): Values<P> {
  return Object.fromEntries(
    Object.entries(parameters).map(([name, value]) => [name, value[size]]),
  ) as Values<P>
}

/** Runs a bench and says where and on what: the load of the machine is read before and after. */
export async function measure<P extends Parameters>(
  bench: Bench<P>,
  size: BenchRecord['size'],
  values: Values<P>,
  surroundings: Surroundings,
): Promise<BenchRecord> {
  const setting = describeSetting(surroundings.modelPath)
  const findings = await bench.run(values, surroundings)
  const { versions, ...rest } = findings
  return {
    bench: bench.name,
    size,
    parameters: values,
    ...rest,
    setting: setting.end(versions ?? {}),
  }
}

/** Makes the file of a bench a command; importing it from a test runs nothing. */
export async function runFromCommandLine<P extends Parameters>(fileUrl: string, bench: Bench<P>) {
  if (fileUrl !== pathToFileURL(argv[1] ?? '').href) return
  try {
    const { size, values, out, model } = parseCommandLine(bench)
    const say = (line: string) => process.stderr.write(`${line}\n`)
    const record = await measure(bench, size, values, { modelPath: model ?? benchModel(say), say })
    const line = `${JSON.stringify(record)}\n`
    process.stdout.write(line)
    if (out !== undefined) {
      mkdirSync(dirname(out), { recursive: true })
      appendFileSync(out, line)
    }
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    process.stderr.write(`${messageOf(error)}${error.fix === undefined ? '' : ` ${error.fix}`}\n`)
    process.exitCode = 1
  }
}

function parseCommandLine<P extends Parameters>({ name, parameters }: Bench<P>) {
  const own = Object.fromEntries(Object.keys(parameters).map((key) => [key, { type: 'string' as const }]))
  const text = { type: 'string' as const }
  const parsed = parseArgs({ options: { ...own, size: text, out: text, model: text } })
  const given: Readonly<Record<string, string | undefined>> = parsed.values
  const { size = 'large', out, model } = given
  if (size !== 'small' && size !== 'large') {
    throw new UserError(`${name}: --size is small or large, not ${size}.`, { failure: 'usage' })
  }
  const overrides: [string, number][] = []
  for (const key of Object.keys(parameters)) {
    const value = given[key]
    if (value === undefined) continue
    if (!/^\d+(\.\d+)?$/.test(value)) {
      throw new UserError(`${name}: --${key} is a number, not ${value}.`, { failure: 'usage' })
    }
    overrides.push([key, Number(value)])
  }
  const values = { ...valuesOf(parameters, size), ...Object.fromEntries(overrides) } as Values<P>
  const recordedSize: BenchRecord['size'] = overrides.length > 0 ? 'custom' : size
  return { size: recordedSize, values, out, model }
}
