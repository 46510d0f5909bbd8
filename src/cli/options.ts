import { InvalidArgumentError } from 'commander'
import { systemClock } from '../base/clock.ts'
import { type DType, dtypes } from '../base/dtype.ts'

/** Parsers of option values: each names what it takes when it refuses. */
export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (Number.isInteger(value) && value >= min && value <= max && text.trim() !== '') return value
    throw new InvalidArgumentError(`It takes a whole number from ${min} to ${max}.`)
  }
}

export function number(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (Number.isFinite(value) && value >= min && value <= max && text.trim() !== '') return value
    throw new InvalidArgumentError(`It takes a number from ${min} to ${max}.`)
  }
}

const units: Record<string, number> = { '': 1, ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** `60ms`, `2s`, `1m`, `3h`, `7d`; a bare number is milliseconds. */
export function milliseconds(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text.trim())
  if (match === null) throw new InvalidArgumentError('It takes a time such as 60ms, 2s, 1m, 3h or 7d.')
  return Number(match[1]) * units[match[2] ?? '']!
}

/** Unix milliseconds of what a person calls `2h` ago. */
export function agoMs(duration: number): number {
  return Math.floor(systemClock.unixMs() - duration)
}

const quantizable = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_K', 'Q5_K', 'Q6_K', 'Q2_K', 'Q3_K'] as const

/** A weight format, written in either case: `q8_0`. */
export function weightFormat(text: string): DType {
  const name = text.toUpperCase()
  const found = quantizable.find((format) => format === name)
  if (found !== undefined && found in dtypes) return found
  throw new InvalidArgumentError(`It takes one of ${quantizable.join(', ').toLowerCase()}.`)
}

export function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}
